package org.edgehadanorm.core;

/** A bundle, or what was asked of it, is not right; the message is one line for people, with the way out. */
public final class BundleException extends Exception {
    private static final long serialVersionUID = 1;

    public BundleException(String message) {
        super(message);
    }

    public BundleException(String message, Throwable cause) {
        super(message, cause);
    }
}
