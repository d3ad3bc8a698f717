package org.edgehadanorm.demo;

import java.util.Locale;

/** Figures as people read them. */
final class Format {
    private static final double SECOND = 1000;
    private static final double MEBI = 1 << 20;

    private Format() {
    }

    /** `4.2 ms`, `42 ms`, `4.2 s`. */
    static String milliseconds(double value) {
        if (value >= 10 * SECOND) {
            return text("%.1f s", value / SECOND);
        }
        return text(value < 10 ? "%.1f ms" : "%.0f ms", value);
    }

    /** `4.2 MiB`, `420 MiB`. */
    static String bytes(double value) {
        double mebi = value / MEBI;
        return text(mebi < 10 ? "%.1f MiB" : "%.0f MiB", mebi);
    }

    /** `41.2 dB`, or `∞ dB` of equal pictures. */
    static String decibels(double value) {
        return Double.isInfinite(value) ? "∞ dB" : text("%.1f dB", value);
    }

    private static String text(String pattern, double value) {
        return String.format(Locale.getDefault(), pattern, value);
    }
}
