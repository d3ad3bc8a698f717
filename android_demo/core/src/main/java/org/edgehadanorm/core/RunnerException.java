package org.edgehadanorm.core;

/** A program could not be loaded or run; the message is one line for people, with the way out. */
public final class RunnerException extends Exception {
    private static final long serialVersionUID = 1;

    public RunnerException(String message) {
        super(message);
    }

    public RunnerException(String message, Throwable cause) {
        super(message, cause);
    }
}
