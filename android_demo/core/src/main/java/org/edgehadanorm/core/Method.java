package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;

/** The signature of a program's method. */
public final class Method {
    private final String name;
    private final String own;
    private final List<TensorSpec> inputs = new ArrayList<>();
    private final List<TensorSpec> outputs = new ArrayList<>();
    private final OptionalLong activations;

    /** own: its name in the program. */
    Method(String name, String own, Map<String, Object> entry) {
        this.name = name;
        this.own = own;
        activations = entry.get("activations") == null
                ? OptionalLong.empty() : OptionalLong.of((Long) entry.get("activations"));
        for (Map<String, Object> tensor : Manifest.objects(entry, "inputs")) {
            inputs.add(new TensorSpec(tensor));
        }
        for (Map<String, Object> tensor : Manifest.objects(entry, "outputs")) {
            outputs.add(new TensorSpec(tensor));
        }
    }

    /** `role.method`. */
    public String name() {
        return name;
    }

    /** Its name in the program. */
    String own() {
        return own;
    }

    /** In the order of the arguments. */
    public List<TensorSpec> inputs() {
        return Collections.unmodifiableList(inputs);
    }

    /** In the order of the results. */
    public List<TensorSpec> outputs() {
        return Collections.unmodifiableList(outputs);
    }

    /** Bytes of what it computes on the way; empty where the system plans them. */
    OptionalLong activations() {
        return activations;
    }

    /** Of its inputs and outputs. */
    double bytes() {
        return bytes(inputs) + bytes(outputs);
    }

    private static double bytes(List<TensorSpec> tensors) {
        return tensors.stream().mapToDouble(TensorSpec::bytes).sum();
    }

    /** Runs it: `method` of a loaded program. Throws RunnerException where it does not go with the signature. */
    Tensor[] run(ModuleRunner runner, Tensor... given) throws RunnerException {
        check("takes", inputs, given);
        Tensor[] made = runner.run(own, given);
        check("gives", outputs, made);
        return made;
    }

    private void check(String verb, List<TensorSpec> wanted, Tensor[] tensors) throws RunnerException {
        if (tensors.length != wanted.size()) {
            throw new RunnerException(name + " " + verb + " " + wanted.size() + " tensors by the manifest, not "
                    + tensors.length + "; export the bundle again");
        }
        for (int i = 0; i < tensors.length; i++) {
            if (!wanted.get(i).fits(tensors[i])) {
                throw new RunnerException(name + " " + verb + " " + wanted.get(i) + " by the manifest, not "
                        + TensorSpec.describe(tensors[i]) + "; export the bundle again");
            }
        }
    }
}
