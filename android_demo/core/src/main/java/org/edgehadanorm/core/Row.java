package org.edgehadanorm.core;

import java.util.Optional;

/** A step of a plan. Coefficients [j] belong to the prediction or the noise of j steps before. */
final class Row {
    private final double timestep;
    private final double inputScale;
    private final double a;
    private final double[] guided;
    private final double[] text;
    private final double[] negative;
    private final double[] noise;
    private final Optional<double[]> known;

    /**
     * guided, text, negative, noise: b, b_text, b_negative and c of the manifest. known: two numbers; nothing where the
     * plan does not say them.
     */
    Row(double timestep, double inputScale, double a, double[] guided, double[] text, double[] negative,
            double[] noise, Optional<double[]> known) {
        this.timestep = timestep;
        this.inputScale = inputScale;
        this.a = a;
        this.guided = guided;
        this.text = text;
        this.negative = negative;
        this.noise = noise;
        this.known = known;
    }

    /** As the model is given it. */
    double timestep() {
        return timestep;
    }

    double inputScale() {
        return inputScale;
    }

    /** Of the latents. */
    double a() {
        return a;
    }

    /** Of predictions under guidance. */
    double[] guided() {
        return guided;
    }

    /** Of predictions that guidance leaves alone. */
    double[] own(Conditioning conditioning) {
        return conditioning == Conditioning.TEXT ? text : negative;
    }

    /** Of noise. */
    double[] noise() {
        return noise;
    }

    /** Scales of a known picture and of the first noise in latents as noisy as those that this step begins with. */
    Optional<double[]> known() {
        return known;
    }

    /** How many steps back it reaches at most, with itself. */
    int reach() {
        return Math.max(Math.max(guided.length, text.length), Math.max(negative.length, noise.length));
    }
}
