package org.edgehadanorm.demo;

import java.io.File;
import java.util.function.LongSupplier;

import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.Program;
import org.edgehadanorm.core.RunnerException;

/** Says before a program is loaded that it will not fit, where the system would end the app without a word. */
final class MemoryCheck {
    /** While XNNPACK packs the weights, a mapped program is in memory twice. */
    private static final int COPIES = 2;
    private static final long BESIDES = 16L << 20;
    private static final int MEBI = 1 << 20;
    private final LongSupplier free;

    /** free: bytes that the app can take at the moment. */
    MemoryCheck(LongSupplier free) {
        this.free = free;
    }

    /** Bytes that the largest program needs; programs are loaded one after the other. */
    static long needed(Bundle bundle) {
        long largest = 0;
        for (Program program : bundle.programs().values()) {
            File file = program.file();
            largest = Math.max(largest, file.length());
        }
        return COPIES * largest + BESIDES;
    }

    /** Throws RunnerException where that is not free. */
    void require(Bundle bundle) throws RunnerException {
        long needed = needed(bundle);
        long here = free.getAsLong();
        if (needed > here) {
            throw new RunnerException("Bundle " + bundle.name() + " needs about " + needed / MEBI
                    + " MiB of memory and " + here / MEBI
                    + " MiB are free: close other apps, or take a smaller bundle");
        }
    }
}
