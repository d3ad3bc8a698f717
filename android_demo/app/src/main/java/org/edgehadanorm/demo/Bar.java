package org.edgehadanorm.demo;

/** How far something has come: so much of all, or nobody knows of how much. */
final class Bar {
    private final boolean known;
    private final int done;
    private final int all;

    private Bar(boolean known, long done, long all) {
        this.known = known;
        this.done = (int) done;
        this.all = (int) Math.max(1, all);
    }

    static Bar of(long done, long all) {
        return new Bar(true, done, all);
    }

    static Bar unknown() {
        return new Bar(false, 0, 1);
    }

    /** Whether it is known of how much. */
    boolean isKnown() {
        return known;
    }

    int done() {
        return done;
    }

    /** At least 1. */
    int all() {
        return all;
    }
}
