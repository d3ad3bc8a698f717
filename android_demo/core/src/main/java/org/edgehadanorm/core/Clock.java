package org.edgehadanorm.core;

/** Where the time comes from; a test has its own. */
public interface Clock {
    Clock SYSTEM = System::nanoTime;

    /** Nanoseconds since some fixed moment. */
    long nanoseconds();
}
