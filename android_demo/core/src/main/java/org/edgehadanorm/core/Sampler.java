package org.edgehadanorm.core;

import java.util.EnumMap;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.IntFunction;

/**
 * The loop of a plan. Coefficients are float32; each product and each sum is rounded to float32 in the order written
 * here, never fused, so that equal predictions give the bits that Python's loop gives.
 */
final strictfp class Sampler {
    private final float noiseScale;
    private final List<Step> steps;

    /** Throws BundleException for a guidance that the plan cannot have. */
    Sampler(Plan plan, double guidance) throws BundleException {
        noiseScale = plan.noiseScale();
        steps = plan.at(guidance);
    }

    /** The model: a prediction [n] of latents [n]. */
    interface Model {
        float[] predict(float[] latents, float timestep, Conditioning conditioning) throws RunnerException;
    }

    /** Is told of the latents [n] after each step, k from 0; the next step overwrites them. */
    interface OnStep {
        void done(int k, float[] latents) throws Cancelled;
    }

    int steps() {
        return steps.size();
    }

    /** Whether any step predicts for this. */
    boolean predicts(Conditioning conditioning) {
        return steps.stream().anyMatch(step -> step.predicts(conditioning));
    }

    /**
     * Latents [n]. noise: standard normal noise [n] by its number, 0 the first, k + 1 fresh in step k; it is asked for
     * again whenever it is needed, and may be overwritten.
     */
    float[] sample(Model model, IntFunction<float[]> noise, OnStep onStep) throws RunnerException, Cancelled {
        Map<Conditioning, Map<Integer, float[]>> made = new EnumMap<>(Conditioning.class);
        for (Conditioning conditioning : Conditioning.values()) {
            made.put(conditioning, new HashMap<>());
        }
        float[] latents = noise.apply(0);
        scale(latents, noiseScale);
        for (int k = 0; k < steps.size(); k++) {
            Step step = steps.get(k);
            predict(model, k, latents, made);
            scale(latents, step.a());
            for (Conditioning conditioning : Conditioning.values()) {
                float[] coefficients = step.coefficients(conditioning);
                for (int j = 0; j < coefficients.length; j++) {
                    if (coefficients[j] != 0) {
                        add(latents, coefficients[j], made.get(conditioning).get(k - j));
                    }
                }
                int now = k;
                made.get(conditioning).keySet().removeIf(i -> steps.get(i).lastUse(conditioning) <= now);
            }
            for (int j = 0; j < step.noise().length; j++) {
                if (step.noise()[j] != 0) {
                    add(latents, step.noise()[j], noise.apply(k + 1 - j));
                }
            }
            onStep.done(k, latents);
        }
        return latents;
    }

    private void predict(Model model, int k, float[] latents, Map<Conditioning, Map<Integer, float[]>> made)
            throws RunnerException {
        Step step = steps.get(k);
        float[] given = latents.clone();
        scale(given, step.inputScale());
        for (Conditioning conditioning : Conditioning.values()) {
            if (step.predicts(conditioning)) {
                made.get(conditioning).put(k, model.predict(given, step.timestep(), conditioning));
            }
        }
    }

    private static void scale(float[] values, float scale) {
        for (int i = 0; i < values.length; i++) {
            values[i] = scale * values[i];
        }
    }

    private static void add(float[] sum, float scale, float[] values) {
        for (int i = 0; i < sum.length; i++) {
            float product = scale * values[i];
            sum[i] = sum[i] + product;
        }
    }
}
