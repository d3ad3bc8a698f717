package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalDouble;

/**
 * The sampling of a picture as rows of numbers. With x the latents, n_0, n_1, ... standard normal noise, and p_k the
 * predictions that the model makes of inputScale_k * x_k at timestep_k, for the text and for the negative prompt, under
 * guidance g:
 *
 * <pre>
 * x_0 = noiseScale * n_0
 * x_(k+1) = a x_k + sum_j (text_j + g guided_j) p_text,(k-j) + sum_j (negative_j + (1 - g) guided_j) p_negative,(k-j)
 *           + sum_j noise_j n_(k+1-j)
 * </pre>
 *
 * A guidance below 1 is 1. Coefficients are worked out in float64 as written here, and rounded to float32.
 */
public final strictfp class Plan {
    private static final double MOST_GUIDANCE = 100;

    private final float noiseScale;
    private final OptionalDouble guidance;
    private final List<Row> rows;

    /** guidance: the only one that the plan was made for; empty: any. */
    Plan(double noiseScale, OptionalDouble guidance, List<Row> rows) {
        this.noiseScale = (float) noiseScale;
        this.guidance = guidance;
        this.rows = rows;
    }

    /** Rows, which may be more than the steps that a scheduler was asked for. */
    public int steps() {
        return rows.size();
    }

    /** The only guidance that the plan was made for, where there is one. */
    public OptionalDouble guidance() {
        return guidance;
    }

    /** Whether a negative prompt changes the picture at a guidance. */
    public boolean takesNegative(double asked) {
        return worked(asked).stream().anyMatch(step -> step.predicts(Conditioning.NEGATIVE));
    }

    /** Of the first noise. */
    float noiseScale() {
        return noiseScale;
    }

    /** The steps at a guidance. Throws BundleException for an impossible one, or another than the plan's own. */
    List<Step> at(double asked) throws BundleException {
        if (!(asked >= 0 && asked <= MOST_GUIDANCE)) {
            throw new BundleException("guidance is " + asked + ", not a number from 0 to 100");
        }
        if (guidance.isPresent() && guidance.getAsDouble() != asked) {
            throw new BundleException("guidance is " + asked + ", and these steps were made for "
                    + guidance.getAsDouble() + " alone; take that");
        }
        return worked(asked);
    }

    private List<Step> worked(double asked) {
        double g = Math.max(1, asked);
        List<Step> steps = new ArrayList<>();
        for (Row row : rows) {
            steps.add(new Step(row));
        }
        work(steps, Conditioning.TEXT, g);
        work(steps, Conditioning.NEGATIVE, 1 - g);
        return steps;
    }

    private void work(List<Step> steps, Conditioning conditioning, double factor) {
        float[][] coefficients = new float[steps.size()][];
        int[] last = new int[steps.size()];
        Arrays.fill(last, -1);
        for (int k = 0; k < last.length; k++) {
            coefficients[k] = sums(rows.get(k).own(conditioning), rows.get(k).guided(), factor);
            for (int j = 0; j < coefficients[k].length; j++) {
                if (coefficients[k][j] != 0) {
                    last[k - j] = k;
                }
            }
        }
        for (int k = 0; k < last.length; k++) {
            steps.get(k).set(conditioning, coefficients[k], last[k]);
        }
    }

    /** own + factor * guided, of which the shorter goes on with zeros. */
    private static float[] sums(double[] own, double[] guided, double factor) {
        double[] sums = new double[Math.max(own.length, guided.length)];
        for (int j = 0; j < sums.length; j++) {
            double product = factor * (j < guided.length ? guided[j] : 0);
            sums[j] = (j < own.length ? own[j] : 0) + product;
        }
        return Step.rounded(sums);
    }
}
