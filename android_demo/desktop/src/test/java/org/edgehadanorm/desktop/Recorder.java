package org.edgehadanorm.desktop;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.RunnerException;
import org.edgehadanorm.core.Tensor;

/** Loads as another loader does and keeps a line of every call, as parity.py writes them, and how much was loaded. */
final class Recorder implements ModuleRunner.Loader {
    private final ModuleRunner.Loader loader;
    private final List<String> calls = new ArrayList<>();
    private int open;
    private int most;

    Recorder(ModuleRunner.Loader loader) {
        this.loader = loader;
    }

    @Override
    public Set<String> targets() {
        return loader.targets();
    }

    @Override
    public long free() {
        return loader.free();
    }

    @Override
    public ModuleRunner load(File program, String... methods) throws RunnerException {
        ModuleRunner runner = loader.load(program, methods);
        most = Math.max(most, ++open);
        return new ModuleRunner() {
            @Override
            public Tensor[] run(String method, Tensor... inputs) throws RunnerException {
                Digest digest = new Digest();
                digest.add(inputs);
                Tensor[] outputs = runner.run(method, inputs);
                digest.add(outputs);
                calls.add(program.getName() + " " + method + " " + digest.hex());
                return outputs;
            }

            @Override
            public void close() {
                runner.close();
                open--;
            }
        };
    }

    List<String> calls() {
        return calls;
    }

    /** Programs that are loaded now. */
    int open() {
        return open;
    }

    /** Programs that were loaded at once. */
    int most() {
        return most;
    }
}
