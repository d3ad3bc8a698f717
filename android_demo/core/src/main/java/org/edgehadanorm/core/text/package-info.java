/**
 * Prompts to token ids, as the `tokenizers` library makes them of a tokenizer.json. By their names there it understands
 *
 * <ul>
 * <li>normalizers: Sequence, Lowercase, NFC, NFD, NFKC, NFKD, Strip, Prepend, Replace, Precompiled;
 * <li>pre-tokenizers: Sequence, WhitespaceSplit, Metaspace, ByteLevel, Split;
 * <li>models: WordLevel, Unigram, BPE without dropout;
 * <li>post-processors: Sequence, TemplateProcessing, RobertaProcessing, ByteLevel;
 * <li>added tokens with all their flags.
 * </ul>
 *
 * <p>That covers the reference model, T5, CLIP and Gemma. Any other part of a file is refused by its name.
 */
package org.edgehadanorm.core.text;
