package org.edgehadanorm.core;

/** What a person asks for. */
public final class Request {
    private final String prompt;
    private final String negative;
    private final long seed;
    private final String plan;
    private final double guidance;

    /**
     * negative: what the picture shall not show. seed: 0 to 2^63 - 1. plan: the name of one of the bundle's, "8" of
     * eight steps. guidance: 0 to 100; 1 or less takes the prediction of the prompt alone. What is not so is answered
     * when it is asked for, by a BundleException.
     */
    public Request(String prompt, String negative, long seed, String plan, double guidance) {
        this.prompt = prompt;
        this.negative = negative;
        this.seed = seed;
        this.plan = plan;
        this.guidance = guidance;
    }

    public String prompt() {
        return prompt;
    }

    public String negative() {
        return negative;
    }

    public long seed() {
        return seed;
    }

    public String plan() {
        return plan;
    }

    public double guidance() {
        return guidance;
    }
}
