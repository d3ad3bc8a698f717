package org.edgehadanorm.core.text;

/**
 * Where a character that a reader sees ends: extended grapheme clusters (Unicode Standard Annex 29), as far as a
 * Charsmap can tell. It looks up clusters of less than six bytes by what they begin with, so that the rules for flags,
 * Hangul and Indic conjuncts, whose clusters are longer and whose ends no map has, make no difference. They are left
 * out, and so is that for emoji, which does where a joiner stands between two signs such as the trade mark.
 */
final class Graphemes {
    private static final int ZERO_WIDTH_NON_JOINER = 0x200C;
    private static final int ZERO_WIDTH_JOINER = 0x200D;
    /** Signs that the next character belongs to, as far as both are short. */
    private static final int[][] PREPENDED = {{0x600, 0x605}, {0x6DD, 0x6DD}, {0x70F, 0x70F}};
    /** Spacing marks that begin a character all the same. */
    private static final int[][] APART = {
        {0x102B, 0x102C}, {0x1038, 0x1038}, {0x1062, 0x1064}, {0x1067, 0x106D}, {0x1083, 0x1083}, {0x1087, 0x108C},
        {0x108F, 0x108F}, {0x109A, 0x109C}, {0x1A61, 0x1A61}, {0x1A63, 0x1A64}, {0xAA7B, 0xAA7B}, {0xAA7D, 0xAA7D},
    };
    /** What is no mark by its category and yet belongs to the character before: vowels of Thai and Lao, Halfwidth. */
    private static final int[][] ATTACHED = {{0xE33, 0xE33}, {0xEB3, 0xEB3}, {0xFF9E, 0xFF9F}};

    private Graphemes() {
    }

    /** The end of the cluster that begins at an index. */
    static int end(String text, int start) {
        int last = text.codePointAt(start);
        int at = start + Character.charCount(last);
        while (at < text.length() && !breaks(last, text.codePointAt(at))) {
            last = text.codePointAt(at);
            at += Character.charCount(last);
        }
        return at;
    }

    private static boolean breaks(int last, int next) {
        if (isControl(last) || isControl(next)) {
            return last != '\r' || next != '\n';
        }
        return !isAttached(next) && !isAmong(PREPENDED, last);
    }

    private static boolean isControl(int point) {
        switch (Character.getType(point)) {
            case Character.CONTROL:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
                return true;
            default:
                return Character.getType(point) == Character.FORMAT && !isAttached(point)
                        && !isAmong(PREPENDED, point);
        }
    }

    private static boolean isAttached(int point) {
        switch (Character.getType(point)) {
            case Character.NON_SPACING_MARK:
            case Character.ENCLOSING_MARK:
                return true;
            case Character.COMBINING_SPACING_MARK:
                return !isAmong(APART, point);
            default:
                return point == ZERO_WIDTH_NON_JOINER || point == ZERO_WIDTH_JOINER || isAmong(ATTACHED, point);
        }
    }

    private static boolean isAmong(int[][] ranges, int point) {
        for (int[] range : ranges) {
            if (point >= range[0] && point <= range[1]) {
                return true;
            }
        }
        return false;
    }
}
