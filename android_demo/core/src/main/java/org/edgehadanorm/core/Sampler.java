package org.edgehadanorm.core;

import java.util.EnumMap;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.IntFunction;

/**
 * The loop of a plan. Coefficients are float32; each product and each sum is rounded to float32 in the order written
 * here, never fused, so that equal predictions give the bits that Python's loop gives.
 */
final strictfp class Sampler {
    /** Of the picture and the noise when all steps are done. */
    private static final float[] CLEAN = {1, 0};

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
     * again whenever it is needed, and may be overwritten. known: what the picture begins with, where the plan says how
     * noisy it is; nothing: noise alone.
     */
    float[] sample(Model model, IntFunction<float[]> noise, Optional<Known> known, OnStep onStep)
            throws RunnerException, Cancelled {
        Map<Conditioning, Map<Integer, float[]>> made = new EnumMap<>(Conditioning.class);
        for (Conditioning conditioning : Conditioning.values()) {
            made.put(conditioning, new HashMap<>());
        }
        float[] first = noise.apply(0);
        float[] latents = begun(first, known);
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
            if (known.isPresent() && known.get().isMasked()) {
                known.get().keep(latents, after(k), first);
            }
            onStep.done(k, latents);
        }
        return latents;
    }

    /** What the first step begins with; without a picture the noise becomes it. */
    private float[] begun(float[] noise, Optional<Known> known) {
        if (known.isPresent()) {
            return known.get().noised(steps.get(0).known().get(), noise);
        }
        scale(noise, noiseScale);
        return noise;
    }

    /** Scales of a known picture and of the first noise after step k. */
    private float[] after(int k) {
        return k + 1 < steps.size() ? steps.get(k + 1).known().get() : CLEAN;
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
