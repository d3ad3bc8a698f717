package com.facebook.jni;

import java.util.concurrent.atomic.AtomicInteger;

/** Stands in for fbjni's class: the holder of a native module, which `executorch_jni.cpp` makes and deletes. */
public final class HybridData {
    private static final AtomicInteger LIVE = new AtomicInteger();

    private long pointer;

    HybridData(long pointer) {
        this.pointer = pointer;
        LIVE.incrementAndGet();
    }

    /** Modules that were loaded and not closed. */
    public static int live() {
        return LIVE.get();
    }

    public synchronized boolean isValid() {
        return pointer != 0;
    }

    public synchronized void resetNative() {
        if (pointer != 0) {
            release(pointer);
            pointer = 0;
            LIVE.decrementAndGet();
        }
    }

    private static native void release(long pointer);
}
