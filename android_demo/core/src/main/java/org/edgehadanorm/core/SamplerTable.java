package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * Coefficients of one scheduler at one number of steps. With x the latents and p_k the guided prediction of step k,
 * which the model makes of inputScale_k * x_k at timestep_k:
 *
 * <pre>x_0 = noiseScale * noise        x_(k+1) = a_k * x_k + b_k0 * p_k + b_k1 * p_(k-1) + ...</pre>
 */
public final class SamplerTable {
    private final float[] timesteps;
    private final float[] inputScale;
    private final float[] a;
    private final float[][] b;
    private final float noiseScale;

    private SamplerTable(Map<?, ?> data, int steps) throws BundleException {
        timesteps = column(data, "timesteps", steps);
        inputScale = column(data, "input_scale", steps);
        a = column(data, "a", steps);
        List<?> rows = rows(data.get("b"), "b", steps, steps, steps + " entries, one a step");
        b = new float[steps][];
        for (int k = 0; k < steps; k++) {
            List<?> row = rows(rows.get(k), "b[" + k + "]", 1, k + 1, "1 to " + (k + 1) + " numbers");
            b[k] = floats(row, "b[" + k + "]");
        }
        List<Object> scale = new ArrayList<>();
        scale.add(data.get("noise_scale"));
        noiseScale = floats(scale, "noise_scale")[0];
    }

    /** A table of the manifest. Throws BundleException for one that the loop could not run. */
    public static SamplerTable fromJson(Object json) throws BundleException {
        if (!(json instanceof Map)) {
            throw new BundleException("sampler table: an object is expected, got " + Kind.shown(json));
        }
        Map<?, ?> data = (Map<?, ?>) json;
        List<String> missing = new ArrayList<>();
        for (String key : new String[] {"steps", "timesteps", "input_scale", "a", "b", "noise_scale"}) {
            if (!data.containsKey(key)) {
                missing.add(key);
            }
        }
        if (!missing.isEmpty()) {
            throw new BundleException("sampler table: " + Text.some(missing, missing.size()) + " missing");
        }
        Object steps = data.get("steps");
        if (!(steps instanceof Long) || (Long) steps < 1 || (Long) steps > Integer.MAX_VALUE) {
            throw new BundleException("sampler table: steps must be a positive integer, got " + Kind.shown(steps));
        }
        return new SamplerTable(data, ((Long) steps).intValue());
    }

    /** Calls of the model, which may be more than the steps that were asked for. */
    public int steps() {
        return a.length;
    }

    /** As the model is given it in step k. */
    public float timestep(int k) {
        return timesteps[k];
    }

    public float inputScale(int k) {
        return inputScale[k];
    }

    public float a(int k) {
        return a[k];
    }

    /** Of the prediction of step k - j; 0 where step k does not look so far back. */
    public float b(int k, int j) {
        return j < b[k].length ? b[k][j] : 0;
    }

    /** Predictions that step k looks at. */
    public int reach(int k) {
        return b[k].length;
    }

    /** Predictions that have to be kept at most. */
    public int memory() {
        int most = 1;
        for (float[] row : b) {
            most = Math.max(most, row.length);
        }
        return most;
    }

    public float noiseScale() {
        return noiseScale;
    }

    private static float[] column(Map<?, ?> data, String name, int steps) throws BundleException {
        return floats(rows(data.get(name), name, steps, steps, steps + " entries, one a step"), name);
    }

    private static List<?> rows(Object value, String name, int least, int most, String wanted) throws BundleException {
        if (!(value instanceof List) || ((List<?>) value).size() < least || ((List<?>) value).size() > most) {
            throw new BundleException("sampler table: " + name + " must be a list of " + wanted);
        }
        return (List<?>) value;
    }

    private static float[] floats(List<?> values, String name) throws BundleException {
        float[] numbers = new float[values.size()];
        for (int i = 0; i < numbers.length; i++) {
            Object value = values.get(i);
            double number = value instanceof Number ? ((Number) value).doubleValue() : Double.NaN;
            if (!(Math.abs(number) <= Float.MAX_VALUE)) {
                throw new BundleException(
                        "sampler table: " + name + " holds something other than finite float32 numbers");
            }
            numbers[i] = (float) number;
        }
        return numbers;
    }
}
