package org.edgehadanorm.core;

import java.util.EnumMap;
import java.util.Map;
import java.util.Optional;

/** A row of a plan at one guidance, float32. Coefficients [j] belong to j steps before. */
final class Step {
    private final float timestep;
    private final float inputScale;
    private final float a;
    private final float[] noise;
    private final Optional<float[]> known;
    private final Map<Conditioning, float[]> predictions = new EnumMap<>(Conditioning.class);
    private final Map<Conditioning, Integer> last = new EnumMap<>(Conditioning.class);

    /** A step that takes and makes no prediction so far. */
    Step(Row row) {
        timestep = (float) row.timestep();
        inputScale = (float) row.inputScale();
        a = (float) row.a();
        noise = rounded(row.noise());
        known = row.known().map(Step::rounded);
    }

    /** Sets what is taken of predictions, and the last step that takes the one made here; -1: none does. */
    void set(Conditioning conditioning, float[] coefficients, int lastUse) {
        predictions.put(conditioning, coefficients);
        last.put(conditioning, lastUse);
    }

    /** As the model is given it. */
    float timestep() {
        return timestep;
    }

    float inputScale() {
        return inputScale;
    }

    /** Of the latents. */
    float a() {
        return a;
    }

    /** Of noise. */
    float[] noise() {
        return noise;
    }

    /** Scales of a known picture and of the first noise in latents as noisy as those that this step begins with. */
    Optional<float[]> known() {
        return known;
    }

    /** Of predictions. */
    float[] coefficients(Conditioning conditioning) {
        return predictions.get(conditioning);
    }

    /** Whether this step makes a prediction: some step takes it. */
    boolean predicts(Conditioning conditioning) {
        return last.get(conditioning) >= 0;
    }

    /** The number of the last step that takes the prediction that is made here. */
    int lastUse(Conditioning conditioning) {
        return last.get(conditioning);
    }

    static float[] rounded(double[] values) {
        float[] numbers = new float[values.length];
        for (int i = 0; i < numbers.length; i++) {
            numbers[i] = (float) values[i];
        }
        return numbers;
    }
}
