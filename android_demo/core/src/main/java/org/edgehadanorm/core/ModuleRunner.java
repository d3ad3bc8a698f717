package org.edgehadanorm.core;

import java.io.Closeable;
import java.io.File;
import java.util.Set;

/** A loaded program, whose methods can be run. One thread at a time. */
public interface ModuleRunner extends Closeable {
    /** What a method makes of its inputs, both in the manifest's order; the results stay as they are afterwards. */
    Tensor[] run(String method, Tensor... inputs) throws RunnerException;

    /** Gives the program's memory back. */
    @Override
    void close();

    /** Loads programs. */
    interface Loader {
        /** Those of bundles whose programs it can load, as `edge-hadanorm export --target` names them; at least one. */
        Set<String> targets();

        /** Bytes of memory that programs may take now; 0 where nobody knows. */
        long free();

        /** A program with these methods ready; the others take no memory. */
        ModuleRunner load(File program, String... methods) throws RunnerException;
    }
}
