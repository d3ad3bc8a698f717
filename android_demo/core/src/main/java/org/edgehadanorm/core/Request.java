package org.edgehadanorm.core;

/** What a person asks for. */
public final class Request {
    private final String prompt;
    private final long seed;
    private final int steps;
    private final double guidance;

    /**
     * seed: 0 to 2^63 - 1. steps: one of the bundle's numbers of steps. guidance: 0 to 100; 1 takes the prediction of
     * the prompt alone. What is not so is answered when it is asked for, by a BundleException.
     */
    public Request(String prompt, long seed, int steps, double guidance) {
        this.prompt = prompt;
        this.seed = seed;
        this.steps = steps;
        this.guidance = guidance;
    }

    public String prompt() {
        return prompt;
    }

    public long seed() {
        return seed;
    }

    public int steps() {
        return steps;
    }

    public double guidance() {
        return guidance;
    }
}
