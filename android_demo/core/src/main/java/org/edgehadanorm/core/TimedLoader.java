package org.edgehadanorm.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A loader that measures what the programs of a bundle take to load and their methods to run. */
final class TimedLoader implements ModuleRunner.Loader {
    private final ModuleRunner.Loader loader;
    private final Clock clock;
    private final Map<File, Program> programs = new LinkedHashMap<>();
    private final Map<String, List<Double>> milliseconds = new LinkedHashMap<>();

    TimedLoader(Bundle bundle, ModuleRunner.Loader loader, Clock clock) {
        this.loader = loader;
        this.clock = clock;
        bundle.programs().values().forEach(program -> programs.put(program.file(), program));
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
        long start = clock.nanoseconds();
        ModuleRunner runner = loader.load(program, methods);
        Program known = programs.get(program);
        note(known.role() + ".load", start);
        return new ModuleRunner() {
            @Override
            public Tensor[] run(String method, Tensor... inputs) throws RunnerException {
                long began = clock.nanoseconds();
                Tensor[] made = runner.run(method, inputs);
                note(known.named(method), began);
                return made;
            }

            @Override
            public void close() {
                runner.close();
            }
        };
    }

    /** Milliseconds of every `role.load` or `role.method` so far, in their order; empty where there was none. */
    List<Double> of(String name) {
        return milliseconds.getOrDefault(name, Collections.emptyList());
    }

    private void note(String name, long start) {
        milliseconds.computeIfAbsent(name, key -> new ArrayList<>()).add((clock.nanoseconds() - start) / 1e6);
    }
}
