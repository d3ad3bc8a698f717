package org.edgehadanorm.core;

/** The listener asked to stop, and what ran has stopped. */
public final class Cancelled extends Exception {
    private static final long serialVersionUID = 1;

    public Cancelled() {
        super("cancelled");
    }
}
