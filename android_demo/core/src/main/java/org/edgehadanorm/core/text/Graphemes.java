package org.edgehadanorm.core.text;

/**
 * Where a character that a reader sees ends: extended grapheme clusters (Unicode Standard Annex 29) without those of
 * emoji, flags and conjuncts, all of which have six bytes or more in UTF-8 with the rules or without.
 */
final class Graphemes {
    private static final int ZERO_WIDTH_NON_JOINER = 0x200C;
    private static final int ZERO_WIDTH_JOINER = 0x200D;
    /** Formats and letters that the next character belongs to: the property Prepended_Concatenation_Mark and some. */
    private static final int[][] PREPENDED = {
        {0x600, 0x605}, {0x6DD, 0x6DD}, {0x70F, 0x70F}, {0x890, 0x891}, {0x8E2, 0x8E2}, {0xD4E, 0xD4E},
    };
    /** Spacing marks that begin a character all the same. */
    private static final int[][] APART = {
        {0x102B, 0x102C}, {0x1038, 0x1038}, {0x1062, 0x1064}, {0x1067, 0x106D}, {0x1083, 0x1083}, {0x1087, 0x108C},
        {0x108F, 0x108F}, {0x109A, 0x109C}, {0x1A61, 0x1A61}, {0x1A63, 0x1A64}, {0xAA7B, 0xAA7B}, {0xAA7D, 0xAA7D},
    };
    /** What is no mark by its category and yet belongs to the character before: vowels of Thai and Lao, Halfwidth. */
    private static final int[][] ATTACHED = {{0xE33, 0xE33}, {0xEB3, 0xEB3}, {0xFF9E, 0xFF9F}, {0x1F3FB, 0x1F3FF}};

    private Graphemes() {
    }

    /** The end of the cluster that begins at an index. */
    static int end(String text, int start) {
        int before = text.codePointAt(start);
        int at = start + Character.charCount(before);
        while (at < text.length() && !breaks(before, text.codePointAt(at))) {
            before = text.codePointAt(at);
            at += Character.charCount(before);
        }
        return at;
    }

    private static boolean breaks(int before, int after) {
        if (before == '\r' && after == '\n') {
            return false;
        }
        if (isControl(before) || isControl(after)) {
            return true;
        }
        return !isAttached(after) && !isAmong(PREPENDED, before) && !joinsHangul(before, after);
    }

    private static boolean isControl(int point) {
        switch (Character.getType(point)) {
            case Character.CONTROL:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
                return true;
            case Character.FORMAT:
                return point != ZERO_WIDTH_NON_JOINER && point != ZERO_WIDTH_JOINER && !isAmong(PREPENDED, point)
                        && !(point >= 0xE0020 && point <= 0xE007F);
            default:
                return false;
        }
    }

    private static boolean isAttached(int point) {
        switch (Character.getType(point)) {
            case Character.NON_SPACING_MARK:
            case Character.ENCLOSING_MARK:
                return true;
            case Character.COMBINING_SPACING_MARK:
                return !isAmong(APART, point);
            case Character.FORMAT:
                return point == ZERO_WIDTH_NON_JOINER || point == ZERO_WIDTH_JOINER
                        || point >= 0xE0020 && point <= 0xE007F;
            default:
                return isAmong(ATTACHED, point);
        }
    }

    private static boolean joinsHangul(int before, int after) {
        boolean leading = before >= 0x1100 && before <= 0x115F || before >= 0xA960 && before <= 0xA97C;
        boolean syllable = before >= 0xAC00 && before <= 0xD7A3;
        boolean open = syllable && (before - 0xAC00) % 28 == 0;
        boolean vowel = before >= 0x1160 && before <= 0x11A7 || before >= 0xD7B0 && before <= 0xD7C6;
        boolean trailing = before >= 0x11A8 && before <= 0x11FF || before >= 0xD7CB && before <= 0xD7FB;
        boolean nextVowel = after >= 0x1160 && after <= 0x11A7 || after >= 0xD7B0 && after <= 0xD7C6;
        boolean nextTrailing = after >= 0x11A8 && after <= 0x11FF || after >= 0xD7CB && after <= 0xD7FB;
        boolean nextLeading = after >= 0x1100 && after <= 0x115F || after >= 0xA960 && after <= 0xA97C;
        boolean nextSyllable = after >= 0xAC00 && after <= 0xD7A3;
        return leading && (nextLeading || nextVowel || nextSyllable)
                || (open || vowel) && (nextVowel || nextTrailing)
                || (syllable || trailing) && nextTrailing;
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
