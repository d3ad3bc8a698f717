package org.edgehadanorm.core;

/** Who watches a generation; it is called on the thread that generates. */
public interface Listener {
    /** Watches nothing and never cancels. */
    Listener NONE = new Listener() {
        @Override
        public boolean cancelled() {
            return false;
        }

        @Override
        public void phase(Phase phase) {
        }

        @Override
        public void step(int done, int steps, double milliseconds, Picture preview) {
        }
    };

    /** Whether to stop; asked before every phase, step and tile. */
    boolean cancelled();

    /** A phase begins. */
    void phase(Phase phase);

    /** A step is done. milliseconds: that it took; preview: what its latents look like, smaller than the picture. */
    void step(int done, int steps, double milliseconds, Picture preview);
}
