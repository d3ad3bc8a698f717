package org.edgehadanorm.core.text;

import java.io.ByteArrayOutputStream;

/** Base64 (RFC 4648, section 4); Android has java.util.Base64 from version 8 on only. */
final class Base64 {
    private static final String LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    private Base64() {
    }

    /** Throws IllegalArgumentException for what is no padded Base64. */
    static byte[] decoded(String text) {
        int padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
        if (text.length() % 4 != 0) {
            throw new IllegalArgumentException(text.length() + " characters of Base64");
        }
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(text.length() / 4 * 3);
        int bits = 0;
        int held = 0;
        for (int i = 0; i < text.length() - padding; i++) {
            int value = LETTERS.indexOf(text.charAt(i));
            if (value < 0) {
                throw new IllegalArgumentException("'" + text.charAt(i) + "' in Base64");
            }
            held = held << 6 | value;
            bits += 6;
            if (bits >= 8) {
                bits -= 8;
                bytes.write(held >> bits);
            }
        }
        return bytes.toByteArray();
    }
}
