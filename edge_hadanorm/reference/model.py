"""The parts of the reference pipeline, untrained: stock diffusers and transformers classes, small."""

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from edge_hadanorm.reference.data import MAX_WORDS, SIDE, words
from edge_hadanorm.reference.pipeline import ReferencePipeline

TEXT_WIDTH = 128
PAD, UNKNOWN = "<pad>", "<unk>"
FLOW_SHIFT = 1.5

TRANSFORMER = dict(
    num_attention_heads=4,
    attention_head_dim=64,
    num_layers=8,
    patch_size=4,
    sample_size=SIDE,
    in_channels=3,
    out_channels=3,
    cross_attention_dim=256,
    caption_channels=TEXT_WIDTH,
    norm_elementwise_affine=False,
    use_additional_conditions=False,
    interpolation_scale=1,
)


def make_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the captions' vocabulary; a prompt is padded to MAX_WORDS, the empty one is all padding."""
    vocabulary = [PAD, UNKNOWN, *sorted({word for caption in captions for word in words(caption)})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(pattern=_not_a_letter_or_digit(), content=" ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=MAX_WORDS, pad_token=PAD, pad_id=0)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, model_max_length=MAX_WORDS
    )


def _not_a_letter_or_digit():
    from tokenizers import Regex

    return Regex("[^a-z0-9]+")


def make_text_encoder(vocabulary_size: int) -> T5EncoderModel:
    """A T5 encoder without layers: a learned word table and a norm."""
    config = T5Config(vocab_size=vocabulary_size, d_model=TEXT_WIDTH, num_layers=0, dropout_rate=0.0)
    return T5EncoderModel(config)


def make_transformer() -> PixArtTransformer2DModel:
    """Xavier-initialised, with residual branches that matter most for stability started at zero (DiT, section 3.2)."""
    model = PixArtTransformer2DModel(**TRANSFORMER)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    zeroed = [model.proj_out, *(block.attn2.to_out[0] for block in model.transformer_blocks)]
    for linear in zeroed:
        torch.nn.init.zeros_(linear.weight)
    return model


def make_pipeline(captions: list[str]) -> ReferencePipeline:
    """An untrained pipeline for these captions. The caller seeds torch."""
    tokenizer = make_tokenizer(captions)
    return ReferencePipeline(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(len(tokenizer)),
        transformer=make_transformer(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
    )
