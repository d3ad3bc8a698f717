package org.edgehadanorm.core.text;

/** White space as Unicode has it, on every platform and in every version the same characters. */
final class Spaces {
    /** The property White_Space, as the inside of a character class of java.util.regex. */
    static final String CLASS =
            "\t-\r \u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000";
    private static final String OTHERS = "\u0085\u00A0\u1680\u2028\u2029\u202F\u205F\u3000";

    private Spaces() {
    }

    /** Whether a character is white space. */
    static boolean is(int point) {
        return point == ' ' || point >= '\t' && point <= '\r' || point >= 0x2000 && point <= 0x200A
                || OTHERS.indexOf(point) >= 0;
    }

    /** The text without what Python's str.strip takes from its ends: white space, and four separators besides. */
    static String stripped(String text) {
        int start = 0;
        int end = text.length();
        while (start < end && isPythons(text.charAt(start))) {
            start++;
        }
        while (start < end && isPythons(text.charAt(end - 1))) {
            end--;
        }
        return text.substring(start, end);
    }

    private static boolean isPythons(char c) {
        return is(c) || c >= 0x1C && c <= 0x1F;
    }
}
