package org.edgehadanorm.core;

/**
 * Initial noise: Philox4x32-10 and Box-Muller, the same bits as Python's from the same seed. The docstring of
 * edge_hadanorm/pipelines/noise.py is the definition; every operation here is one of its, rounded as it says.
 */
final strictfp class Noise {
    private static final long LOW = 0xFFFFFFFFL;
    private static final double[] LOG_TERMS = new double[12];
    private static final double[] SINE_TERMS = new double[9];
    private static final double[] COSINE_TERMS = new double[9];

    static {
        for (int j = 0; j < LOG_TERMS.length; j++) {
            LOG_TERMS[j] = 1.0 / (2 * j + 1);
        }
        double factorial = 1;  // of 2 j
        for (int j = 0; j < SINE_TERMS.length; j++) {
            double sign = j % 2 == 0 ? 1 : -1;
            COSINE_TERMS[j] = sign / factorial;
            SINE_TERMS[j] = sign / (factorial * (2 * j + 1));
            factorial *= (2 * j + 1) * (2 * j + 2);
        }
    }

    private Noise() {
    }

    /** The first normals of a seed's stream. seed: 0 to 2^63 - 1; stream: 0 to 2^32 - 1. */
    static float[] normal(long seed, int count, long stream) {
        if (seed < 0 || stream < 0 || stream > LOW) {
            throw new IllegalArgumentException("no noise of seed " + seed + ", stream " + stream);
        }
        float[] normals = new float[count];
        for (int n = 0; n < count; n += 4) {
            long[] words = block(seed, n / 4, stream);
            for (int pair = 0; pair < 4; pair += 2) {
                double radius = Math.sqrt(-2.0 * log((words[pair] + 0.5) * 0x1p-32));
                turn(radius, words[pair + 1], normals, n + pair);
            }
        }
        return normals;
    }

    /** Four words, each 32 bits. */
    static long[] block(long seed, long index, long stream) {
        long c0 = index & LOW;
        long c1 = index >>> 32;
        long c2 = stream;
        long c3 = 0;
        long k0 = seed & LOW;
        long k1 = seed >>> 32;
        for (int round = 0; round < 10; round++) {
            long product0 = 0xD2511F53L * c0;
            long product1 = 0xCD9E8D57L * c2;
            c0 = product1 >>> 32 ^ c1 ^ k0;
            c1 = product1 & LOW;
            c2 = product0 >>> 32 ^ c3 ^ k1;
            c3 = product0 & LOW;
            k0 = k0 + 0x9E3779B9L & LOW;
            k1 = k1 + 0xBB67AE85L & LOW;
        }
        return new long[] {c0, c1, c2, c3};
    }

    private static double log(double u) {
        int exponent = Math.getExponent(u) + 1;
        double f = Math.scalb(u, -exponent);
        if (f < 0.7071067811865476) {
            f = f + f;
            exponent--;
        }
        double s = (f - 1.0) / (f + 1.0);
        double quotient = horner(s * s, LOG_TERMS);
        double whole = exponent * 0.6931471805599453;
        return whole + (s + s) * quotient;
    }

    /** Writes radius times cosine and sine of 2 pi word / 2^32 at a place, as far as there is room. */
    private static void turn(double radius, long word, float[] normals, int at) {
        long octant = word + (1L << 29) >> 30;
        double x = (word - (octant << 30)) * 0x1p-32 * 6.283185307179586;
        double y = x * x;
        double sine = x * horner(y, SINE_TERMS);
        double cosine = horner(y, COSINE_TERMS);
        int quarter = (int) (octant & 3);
        double[] cosines = {cosine, -sine, -cosine, sine};
        double[] sines = {sine, cosine, -sine, -cosine};
        if (at < normals.length) {
            normals[at] = (float) (radius * cosines[quarter]);
        }
        if (at + 1 < normals.length) {
            normals[at + 1] = (float) (radius * sines[quarter]);
        }
    }

    private static double horner(double y, double[] terms) {
        double total = terms[terms.length - 1];
        for (int j = terms.length - 2; j >= 0; j--) {
            double product = total * y;
            total = product + terms[j];
        }
        return total;
    }
}
