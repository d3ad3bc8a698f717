package org.edgehadanorm.core;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Iterator;

/**
 * The loop of a sampler table. Coefficients are float32; each product and each sum is rounded to float32 in the order
 * written here, never fused, so that equal predictions give the bits that Python's loop gives.
 */
final strictfp class Sampler {
    private final SamplerTable table;
    private final float guidance;
    private final boolean guided;

    /** guidance: 1 takes the prediction of the prompt as it is. */
    Sampler(SamplerTable table, double guidance) {
        this.table = table;
        this.guidance = (float) guidance;
        this.guided = guidance != 1;
    }

    /** The model: predictions [2, n] of latents [n], row 0 of the empty prompt, row 1 of the prompt. */
    interface Model {
        float[] predict(float[] latents, float timestep) throws RunnerException, Cancelled;
    }

    /** Is told of the latents [n] after each step, k from 0. */
    interface OnStep {
        void done(int k, float[] latents) throws Cancelled;
    }

    /** Latents [n] of standard normal noise [n]. */
    float[] sample(Model model, float[] noise, OnStep onStep) throws RunnerException, Cancelled {
        float[] latents = scaled(table.noiseScale(), noise);
        Deque<float[]> history = new ArrayDeque<>();
        for (int k = 0; k < table.steps(); k++) {
            float[] both = model.predict(scaled(table.inputScale(k), latents), table.timestep(k));
            history.addFirst(guided(both, latents.length));
            if (history.size() > table.memory()) {
                history.removeLast();
            }
            latents = scaled(table.a(k), latents);
            Iterator<float[]> past = history.iterator();
            for (int j = 0; j < table.reach(k) && past.hasNext(); j++) {
                add(latents, table.b(k, j), past.next());
            }
            onStep.done(k, latents);
        }
        return latents;
    }

    /** empty + guidance * (text - empty). */
    private float[] guided(float[] both, int count) {
        float[] prediction = new float[count];
        System.arraycopy(both, count, prediction, 0, count);
        if (guided) {
            for (int i = 0; i < count; i++) {
                float difference = prediction[i] - both[i];
                float product = guidance * difference;
                prediction[i] = both[i] + product;
            }
        }
        return prediction;
    }

    private static float[] scaled(float scale, float[] values) {
        float[] product = new float[values.length];
        for (int i = 0; i < values.length; i++) {
            product[i] = scale * values[i];
        }
        return product;
    }

    private static void add(float[] sum, float scale, float[] values) {
        for (int i = 0; i < sum.length; i++) {
            float product = scale * values[i];
            sum[i] = sum[i] + product;
        }
    }
}
