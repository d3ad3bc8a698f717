package org.edgehadanorm.core;

import java.util.Arrays;
import java.util.Collections;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Collectors;

import org.edgehadanorm.core.text.PromptTokenizer;

/** What a bundle makes of prompts: its tokenizers and text encoders, its classes, or what it carries encoded. */
final class Prompts {
    private static final String IDS = "ids";
    private static final String MASK = "mask";
    private static final String KEPT = "kept";

    private final Bundle bundle;
    private final PromptForm form;

    Prompts(Bundle bundle) {
        this.bundle = bundle;
        this.form = bundle.prompt();
    }

    /** Runs the `encode` of a text encoder by its role, once for each of the inputs. */
    interface Encode {
        Map<Conditioning, Tensor[]> run(String role, Map<Conditioning, Tensor[]> inputs)
                throws RunnerException, BundleException, Cancelled;
    }

    /**
     * The inputs of the denoiser's `prepare` in the manifest's order, each [1, ...], for each of the prompts. Throws
     * BundleException for a prompt that the bundle does not take.
     */
    Map<Conditioning, Tensor[]> inputs(Map<Conditioning, String> prompts, Encode encode)
            throws RunnerException, BundleException, Cancelled {
        Map<Conditioning, Map<String, Tensor>> given = given(prompts, encode);
        Map<Conditioning, Tensor[]> inputs = new EnumMap<>(Conditioning.class);
        for (Conditioning conditioning : prompts.keySet()) {
            inputs.put(conditioning, ordered(given.get(conditioning)));
        }
        return inputs;
    }

    private Map<Conditioning, Map<String, Tensor>> given(Map<Conditioning, String> prompts, Encode encode)
            throws RunnerException, BundleException, Cancelled {
        switch (form.kind()) {
            case LABELS:
                return labelled(prompts);
            case EMBEDDED:
                return carried(prompts);
            default:
                return encoded(prompts, encode);
        }
    }

    private Tensor[] ordered(Map<String, Tensor> given) throws BundleException {
        List<TensorSpec> wanted = bundle.programs().get(Links.DENOISER).method("prepare").inputs();
        Tensor[] inputs = new Tensor[wanted.size()];
        for (int i = 0; i < inputs.length; i++) {
            inputs[i] = given.get(wanted.get(i).name());
            if (inputs[i] == null) {
                throw new BundleException("bundle " + bundle.name() + ": nothing gives '" + wanted.get(i).name()
                        + "', which its denoiser takes; export the bundle again");
            }
        }
        return inputs;
    }

    /** Every prompt is found right or wrong before the first encoder is loaded, and each encoder is loaded once. */
    private Map<Conditioning, Map<String, Tensor>> encoded(Map<Conditioning, String> prompts, Encode encode)
            throws RunnerException, BundleException, Cancelled {
        Map<String, Map<Conditioning, Map<String, Tensor>>> read = new LinkedHashMap<>();
        for (Map.Entry<String, PromptForm.Encoder> entry : form.encoders().entrySet()) {
            read.put(entry.getKey(), tokenized(entry.getValue(), prompts));
        }
        Map<Conditioning, Map<String, Tensor>> given = new EnumMap<>(Conditioning.class);
        prompts.keySet().forEach(conditioning -> given.put(conditioning, new LinkedHashMap<>()));
        for (String role : read.keySet()) {
            Method method = bundle.programs().get(role).method("encode");
            List<String> names = method.inputs().stream().map(TensorSpec::name).collect(Collectors.toList());
            Map<Conditioning, Tensor[]> inputs = new EnumMap<>(Conditioning.class);
            read.get(role).forEach((conditioning, tensors) -> {
                inputs.put(conditioning, names.stream().map(tensors::get).toArray(Tensor[]::new));
                if (names.contains(MASK)) {
                    given.get(conditioning).put(MASK + role.substring("text_encoder".length()), tensors.get(MASK));
                }
            });
            encode.run(role, inputs).forEach((conditioning, outputs) -> {
                for (int i = 0; i < outputs.length; i++) {
                    given.get(conditioning).put(method.outputs().get(i).name(), outputs[i]);
                }
            });
        }
        return given;
    }

    private Map<Conditioning, Map<String, Tensor>> tokenized(PromptForm.Encoder encoder,
            Map<Conditioning, String> prompts) throws BundleException {
        PromptTokenizer tokenizer = new PromptTokenizer(
                encoder.tokenizer(), encoder.length(), encoder.padId(), form.lower(), encoder.prefix());
        Map<Conditioning, Map<String, Tensor>> tensors = new EnumMap<>(Conditioning.class);
        for (Map.Entry<Conditioning, String> entry : prompts.entrySet()) {
            Optional<long[]> kept = encoder.kept(entry.getKey());
            int most = kept.map(places -> places.length).orElse(encoder.length());
            long[] ids = entry.getKey() == Conditioning.TEXT
                    ? tokenizer.ids(entry.getValue()) : tokenizer.negativeIds(entry.getValue(), most);
            Map<String, Tensor> made = sequence(tokenizer.padded(ids), ids.length);
            kept.ifPresent(places -> made.put(KEPT, Tensor.of(places, places.length)));
            tensors.put(entry.getKey(), made);
        }
        return tensors;
    }

    /** Ids int64 [1, length] and their mask: 1 for so many tokens, 0 for padding. */
    private static Map<String, Tensor> sequence(long[] ids, int tokens) {
        float[] mask = new float[ids.length];
        Arrays.fill(mask, 0, tokens, 1);
        Map<String, Tensor> made = new LinkedHashMap<>();
        made.put(IDS, Tensor.of(ids, 1, ids.length));
        made.put(MASK, Tensor.of(mask, 1, ids.length));
        return made;
    }

    /** The number of the class that a prompt names; of the empty one that of no class. */
    private Map<Conditioning, Map<String, Tensor>> labelled(Map<Conditioning, String> prompts) throws BundleException {
        Map<String, Long> labels = form.labels();
        Map<Conditioning, Map<String, Tensor>> given = new EnumMap<>(Conditioning.class);
        for (Map.Entry<Conditioning, String> entry : prompts.entrySet()) {
            String prompt = entry.getValue();
            if (!prompt.isEmpty() && !labels.containsKey(prompt)) {
                throw new BundleException("prompt '" + prompt + "' is no class of the model; classes: "
                        + Text.shortened(Text.some(labels.keySet(), 40), 200));
            }
            float number = labels.getOrDefault(prompt, (long) labels.size());
            given.put(entry.getKey(),
                    Collections.singletonMap("label", Tensor.of(new float[] {number}, 1)));
        }
        return given;
    }

    /** Every prompt is found right or wrong before the file is read. */
    private Map<Conditioning, Map<String, Tensor>> carried(Map<Conditioning, String> prompts) throws BundleException {
        Map<Conditioning, Integer> places = new EnumMap<>(Conditioning.class);
        for (Map.Entry<Conditioning, String> entry : prompts.entrySet()) {
            places.put(entry.getKey(), place(entry.getKey(), entry.getValue()));
        }
        Map<String, Tensor> all = Safetensors.read(form.embedded());
        Map<Conditioning, Map<String, Tensor>> given = new EnumMap<>(Conditioning.class);
        for (Map.Entry<Conditioning, Integer> entry : places.entrySet()) {
            Map<String, Tensor> rows = new LinkedHashMap<>();
            for (Map.Entry<String, Tensor> tensor : all.entrySet()) {
                rows.put(tensor.getKey(), row(tensor.getKey(), tensor.getValue(), entry.getValue()));
            }
            given.put(entry.getKey(), rows);
        }
        return given;
    }

    /** The row of a prompt in the file. */
    private int place(Conditioning conditioning, String prompt) throws BundleException {
        boolean isText = conditioning == Conditioning.TEXT;
        List<String> known = isText ? form.choices() : form.negatives();
        if (!known.contains(prompt)) {
            throw unknown(isText ? "prompt" : "negative prompt", prompt, known);
        }
        return known.indexOf(prompt) + (isText ? 0 : form.choices().size());
    }

    private static BundleException unknown(String what, String prompt, List<String> known) {
        if (known.isEmpty()) {
            return new BundleException("the bundle carries no " + what + "; take guidance 1, which needs none");
        }
        List<String> names =
                known.stream().map(name -> name.isEmpty() ? "the empty one" : name).collect(Collectors.toList());
        return new BundleException(what + " '" + prompt + "' is not among those that the bundle carries; take "
                + Text.some(names, 12));
    }

    /** A row of a tensor that has one for each prompt. */
    private Tensor row(String name, Tensor rows, int row) throws BundleException {
        long[] shape = rows.shape();
        int prompts = form.choices().size() + form.negatives().size();
        if (shape.length == 0 || shape[0] != prompts) {
            throw new BundleException("bundle " + bundle.name() + ": '" + name + "' has not one row for each of "
                    + prompts + " prompts; export the bundle again");
        }
        int count = (int) (Tensor.count(shape) / prompts);
        shape[0] = 1;
        int start = row * count;
        return rows.dtype() == Dtype.INT64
                ? Tensor.of(Arrays.copyOfRange(rows.longs(), start, start + count), shape)
                : Tensor.of(Arrays.copyOfRange(rows.floats(), start, start + count), shape);
    }
}
