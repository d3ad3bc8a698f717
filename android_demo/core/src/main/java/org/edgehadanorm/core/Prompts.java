package org.edgehadanorm.core;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

import org.edgehadanorm.core.text.PromptTokenizer;

/** What a bundle makes of a prompt: its tokenizers and text encoders, its classes, or what it carries encoded. */
final class Prompts {
    private final Bundle bundle;
    private final PromptForm form;

    Prompts(Bundle bundle) {
        this.bundle = bundle;
        this.form = bundle.prompt();
    }

    /** Runs the `encode` of a text encoder by its role. */
    interface Encode {
        Tensor[] run(String role, Tensor[] inputs) throws RunnerException, BundleException, Cancelled;
    }

    /**
     * The inputs of the denoiser's `prepare` in the manifest's order, each [2, ...]: row 0 of the empty prompt, row 1
     * of this one. Throws BundleException for a prompt that the bundle does not take.
     */
    Tensor[] inputs(String prompt, Encode encode) throws RunnerException, BundleException, Cancelled {
        Map<String, Tensor> given = given(prompt, encode);
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

    private Map<String, Tensor> given(String prompt, Encode encode)
            throws RunnerException, BundleException, Cancelled {
        switch (form.kind()) {
            case LABELS:
                return labelled(prompt);
            case EMBEDDED:
                return carried(prompt);
            default:
                return encoded(prompt, encode);
        }
    }

    /** Every prompt is found right or wrong before the first encoder is loaded. */
    private Map<String, Tensor> encoded(String prompt, Encode encode)
            throws RunnerException, BundleException, Cancelled {
        Map<String, Tensor[]> inputs = new LinkedHashMap<>();
        for (Map.Entry<String, PromptForm.Encoder> entry : form.encoders().entrySet()) {
            inputs.put(entry.getKey(), rows(entry.getValue(), prompt));
        }
        Map<String, Tensor> given = new LinkedHashMap<>();
        for (String role : inputs.keySet()) {
            Method method = bundle.programs().get(role).method("encode");
            boolean masked = method.inputs().size() > 1;
            Tensor[] rows = inputs.get(role);
            if (masked) {
                given.put("mask" + role.substring("text_encoder".length()), rows[1]);
            }
            Tensor[] outputs = encode.run(role, masked ? rows : new Tensor[] {rows[0]});
            for (int i = 0; i < outputs.length; i++) {
                given.put(method.outputs().get(i).name(), outputs[i]);
            }
        }
        return given;
    }

    /** Ids int64 [2, length] of the empty prompt and of this one, and their mask: 1 for tokens, 0 for padding. */
    private Tensor[] rows(PromptForm.Encoder encoder, String prompt) throws BundleException {
        PromptTokenizer tokenizer = new PromptTokenizer(
                encoder.tokenizer(), encoder.length(), encoder.padId(), form.lower(), encoder.prefix());
        int length = encoder.length();
        long[] ids = new long[2 * length];
        float[] mask = new float[2 * length];
        int row = 0;
        for (String text : new String[] {"", prompt}) {
            long[] found = tokenizer.ids(text);
            System.arraycopy(tokenizer.padded(found), 0, ids, row, length);
            Arrays.fill(mask, row, row + found.length, 1);
            row += length;
        }
        return new Tensor[] {Tensor.of(ids, 2, length), Tensor.of(mask, 2, length)};
    }

    /** The numbers of no class and of the class that a prompt names. */
    private Map<String, Tensor> labelled(String prompt) throws BundleException {
        Map<String, Long> labels = form.labels();
        if (!prompt.isEmpty() && !labels.containsKey(prompt)) {
            throw new BundleException("prompt '" + prompt + "' is no class of the model; classes: "
                    + Text.shortened(Text.some(labels.keySet(), 40), 200));
        }
        float none = labels.size();
        Long number = labels.get(prompt);
        Map<String, Tensor> given = new LinkedHashMap<>();
        given.put("label", Tensor.of(new float[] {none, number == null ? none : number}, 2));
        return given;
    }

    private Map<String, Tensor> carried(String prompt) throws BundleException {
        int row = 1 + form.choices().indexOf(prompt);
        if (row == 0 && !prompt.isEmpty()) {
            throw new BundleException("prompt '" + prompt + "' is not among those that the bundle carries; take "
                    + Text.some(form.choices(), 12));
        }
        Map<String, Tensor> given = new LinkedHashMap<>();
        for (Map.Entry<String, Tensor> entry : Safetensors.read(form.embedded()).entrySet()) {
            given.put(entry.getKey(), pair(entry.getKey(), entry.getValue(), row));
        }
        return given;
    }

    /** Rows 0 and `row` of a tensor. */
    private Tensor pair(String name, Tensor rows, int row) throws BundleException {
        long[] shape = rows.shape();
        if (shape.length == 0 || shape[0] <= row) {
            throw new BundleException("bundle " + bundle.name() + ": '" + name + "' has no row " + row
                    + " for the prompt; export the bundle again");
        }
        int count = (int) (Tensor.count(shape) / shape[0]);
        shape[0] = 2;
        if (rows.dtype() == Dtype.INT64) {
            long[] both = new long[2 * count];
            System.arraycopy(rows.longs(), 0, both, 0, count);
            System.arraycopy(rows.longs(), row * count, both, count, count);
            return Tensor.of(both, shape);
        }
        float[] both = new float[2 * count];
        System.arraycopy(rows.floats(), 0, both, 0, count);
        System.arraycopy(rows.floats(), row * count, both, count, count);
        return Tensor.of(both, shape);
    }
}
