package org.edgehadanorm.core.text;

/** Base64 (RFC 4648), which Android has had in java.util since API 26 alone. */
final class Base64 {
    private static final String DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    private Base64() {
    }

    /** The bytes that padded text stands for. Throws IllegalArgumentException for what is no Base64. */
    static byte[] decoded(String text) {
        int padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
        if (text.length() % 4 != 0) {
            throw new IllegalArgumentException(text.length() + " digits of Base64, not a multiple of four");
        }
        byte[] bytes = new byte[text.length() / 4 * 3 - padding];
        int bits = 0;
        for (int at = 0; at < text.length(); at++) {
            boolean padded = at >= text.length() - padding;
            int digit = padded ? 0 : DIGITS.indexOf(text.charAt(at));
            if (digit < 0) {
                throw new IllegalArgumentException("no digit of Base64 at character " + at);
            }
            bits = bits << 6 | digit;
            if (at % 4 == 3) {
                for (int part = 0; part < 3 && at / 4 * 3 + part < bytes.length; part++) {
                    bytes[at / 4 * 3 + part] = (byte) (bits >> 16 - 8 * part);
                }
            }
        }
        return bytes;
    }
}
