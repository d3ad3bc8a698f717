package org.edgehadanorm.core;

import java.util.Optional;

/** What a person asks for. */
public final class Request {
    private final String prompt;
    private final String negative;
    private final long seed;
    private final String plan;
    private final double guidance;
    private final Optional<Original> original;
    private final double strength;

    /**
     * negative: what the picture shall not show. seed: 0 to 2^63 - 1. plan: the name of one of the bundle's, "8" of
     * eight steps. guidance: 0 to 100; 1 or less takes the prediction of the prompt alone. What is not so is answered
     * when it is asked for, by a BundleException.
     */
    public Request(String prompt, String negative, long seed, String plan, double guidance) {
        this(prompt, negative, seed, plan, guidance, Optional.empty(), 1);
    }

    private Request(String prompt, String negative, long seed, String plan, double guidance,
            Optional<Original> original, double strength) {
        this.prompt = prompt;
        this.negative = negative;
        this.seed = seed;
        this.plan = plan;
        this.guidance = guidance;
        this.original = original;
        this.strength = strength;
    }

    /** The same, beginning with a picture. strength: share of the steps that are taken then, above 0 and at most 1. */
    public Request beginningWith(Original picture, double share) {
        return new Request(prompt, negative, seed, plan, guidance, Optional.of(picture), share);
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

    /** What the picture begins with; nothing: noise alone. */
    public Optional<Original> original() {
        return original;
    }

    /** Share of the plan's steps that are taken. */
    public double strength() {
        return strength;
    }
}
