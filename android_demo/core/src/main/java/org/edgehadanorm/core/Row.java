package org.edgehadanorm.core;

/** A step of a plan. Coefficients [j] belong to the prediction or the noise of j steps before. */
final class Row {
    private final double timestep;
    private final double inputScale;
    private final double a;
    private final double[] guided;
    private final double[] text;
    private final double[] negative;
    private final double[] noise;

    /** guided, text, negative, noise: b, b_text, b_negative and c of the manifest. */
    Row(double timestep, double inputScale, double a, double[] guided, double[] text, double[] negative,
            double[] noise) {
        this.timestep = timestep;
        this.inputScale = inputScale;
        this.a = a;
        this.guided = guided;
        this.text = text;
        this.negative = negative;
        this.noise = noise;
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
}
