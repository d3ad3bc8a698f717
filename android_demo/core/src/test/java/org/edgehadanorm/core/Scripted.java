package org.edgehadanorm.core;

import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A loader for a bundle whose programs answer every call with zeros of the shapes in the manifest. */
final class Scripted implements ModuleRunner.Loader {
    private final Bundle bundle;
    private final Before before;
    private final List<String> events = new ArrayList<>();
    private long free;

    /** before: is called ahead of every load, run and close, by `role.load`, `role.METHOD` or `role.close`. */
    Scripted(Bundle bundle, Before before) {
        this.bundle = bundle;
        this.before = before;
    }

    /** For a bundle whose programs must not be loaded. */
    static Scripted unloaded(Bundle bundle) {
        return new Scripted(bundle, event -> {
            throw new AssertionError(event);
        });
    }

    /** With so much free memory, which else nobody knows. */
    Scripted free(double bytes) {
        free = (long) bytes;
        return this;
    }

    /** What a test does at an event. */
    interface Before {
        void event(String name) throws RunnerException;
    }

    /** All that happened, in order. */
    List<String> events() {
        return events;
    }

    @Override
    public Set<String> targets() {
        return Vectors.TARGETS;
    }

    @Override
    public long free() {
        return free;
    }

    @Override
    public ModuleRunner load(File file, String... methods) throws RunnerException {
        Program program = program(file);
        note(program.role() + ".load");
        return new ModuleRunner() {
            @Override
            public Tensor[] run(String method, Tensor... inputs) throws RunnerException {
                assertTrue(method + " is not loaded", Arrays.asList(methods).contains(method));
                note(program.role() + "." + method);
                return program.methods().get(method).outputs().stream().map(Scripted::zeros).toArray(Tensor[]::new);
            }

            @Override
            public void close() {
                events.add(program.role() + ".close");
            }
        };
    }

    private Program program(File file) {
        for (Map.Entry<String, Program> entry : bundle.programs().entrySet()) {
            if (entry.getValue().file().equals(file)) {
                return entry.getValue();
            }
        }
        throw new AssertionError(file);
    }

    private void note(String event) throws RunnerException {
        events.add(event);
        before.event(event);
    }

    private static Tensor zeros(TensorSpec spec) {
        return Tensor.of(new float[(int) spec.count()], spec.shape());
    }
}
