package org.edgehadanorm.core.text;

import java.nio.charset.StandardCharsets;

/** The letters that byte-level vocabularies write for the 256 bytes: printable ones as they are, others from U+0100. */
final class ByteLetters {
    private static final char[] LETTERS = new char[256];

    static {
        char next = 0x100;
        for (int value = 0; value < LETTERS.length; value++) {
            boolean printable = value >= '!' && value <= '~' || value >= 0xA1 && value <= 0xAC || value >= 0xAE;
            LETTERS[value] = printable ? (char) value : next++;
        }
    }

    private ByteLetters() {
    }

    /** A slice as the letters of its bytes in UTF-8. */
    static Slice of(Slice slice) {
        Slice.Builder letters = new Slice.Builder();
        String text = slice.text();
        int next;
        for (int at = 0; at < text.length(); at = next) {
            next = text.offsetByCodePoints(at, 1);
            for (byte value : text.substring(at, next).getBytes(StandardCharsets.UTF_8)) {
                letters.append(String.valueOf(LETTERS[value & 0xFF]), slice.origin(at));
            }
        }
        return letters.slice();
    }
}
