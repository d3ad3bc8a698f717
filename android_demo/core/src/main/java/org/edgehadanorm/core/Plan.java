package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;

/**
 * The sampling of a picture as rows of numbers. With x the latents, n_0, n_1, ... standard normal noise, and p_k the
 * predictions that the model makes of inputScale_k * x_k at timestep_k, for the text and for the negative prompt, under
 * guidance g:
 *
 * <pre>
 * x_0 = noiseScale * n_0, or known_0 of a picture's latents z: known_0[0] z + known_0[1] n_0
 * x_(k+1) = a x_k + sum_j (text_j + g guided_j) p_text,(k-j) + sum_j (negative_j + (1 - g) guided_j) p_negative,(k-j)
 *           + sum_j noise_j n_(k+1-j)
 * </pre>
 *
 * Under a mask m, 1 where the picture is drawn anew, x_(k+1) is then (1 - m) (known_(k+1)[0] z + known_(k+1)[1] n_0)
 * + m x_(k+1); after the last row known is (1, 0).
 *
 * <p>A guidance below 1 is 1. Coefficients are worked out in float64 as written here, and rounded to float32.
 */
public final strictfp class Plan {
    private static final double MOST_GUIDANCE = 100;

    private final float noiseScale;
    private final OptionalDouble guidance;
    private final List<Row> rows;
    private final Map<Integer, Plan> starts;

    /**
     * guidance: the only one that the plan was made for; empty: any. starts: by row, the plan that begins there with a
     * known picture, where it is another than the rest of this one.
     */
    Plan(double noiseScale, OptionalDouble guidance, List<Row> rows, Map<Integer, Plan> starts) {
        this.noiseScale = (float) noiseScale;
        this.guidance = guidance;
        this.rows = rows;
        this.starts = starts;
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

    /**
     * The last rows, a share `strength` of all, which begin with a known picture; the row before them too where the
     * first of them cannot begin. Throws BundleException for an impossible strength, and where no picture can begin.
     */
    public Plan begun(double strength) throws BundleException {
        if (!(strength > 0 && strength <= 1)) {
            throw new BundleException("strength is " + strength + ", not a number above 0 and at most 1");
        }
        int first = (int) (steps() - steps() * strength);
        for (int row : new int[] {first, Math.max(first - 1, 0)}) {
            Optional<Plan> plan = starts.containsKey(row) ? Optional.of(starts.get(row)) : rest(row);
            if (plan.isPresent()) {
                return plan.get();
            }
        }
        String why = first > 0 ? "at step " + first + " of " + steps() : "that does not say how noisy its latents are";
        throw new BundleException(
                "no picture can begin a plan " + why + ": take other steps or another strength");
    }

    /** The rows from one on; nothing where they reach back before it, or it does not say how noisy latents are. */
    Optional<Plan> rest(int row) {
        List<Row> rest = rows.subList(row, rows.size());
        for (int k = 0; k < rest.size(); k++) {
            if (rest.get(k).reach() > k + 1) {
                return Optional.empty();
            }
        }
        return rest.get(0).known().map(known -> new Plan(known[1], guidance, rest, Collections.emptyMap()));
    }

    /** Throws BundleException where the plan does not say how noisy latents are that a known picture is put into. */
    void requireKnown(boolean masked) throws BundleException {
        for (Row row : masked ? rows : rows.subList(0, 1)) {
            if (!row.known().isPresent()) {
                throw new BundleException(
                        "the plan does not say how noisy its latents are: no picture can begin it; take other steps");
            }
        }
    }

    /** Of the first noise. */
    float noiseScale() {
        return noiseScale;
    }

    /** Whether a picture begins with a plan of its own somewhere. */
    boolean hasStarts() {
        return !starts.isEmpty();
    }

    /** Whether a picture can begin with the first row. */
    boolean startsKnown() {
        return rows.get(0).known().isPresent();
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
