package org.edgehadanorm.core;

/** Words for messages. */
public final class Text {
    private Text() {
    }

    /** The text, or its beginning and `...` where it has more characters. */
    public static String shortened(String text, int most) {
        if (text.length() <= most) {
            return text;
        }
        int end = most - 4;
        return text.substring(0, Character.isHighSurrogate(text.charAt(end - 1)) ? end - 1 : end) + " ...";
    }

    /** The text on one line: control characters and halves of surrogate pairs become `?`. */
    public static String plain(String text) {
        StringBuilder out = new StringBuilder(text.length());
        text.codePoints().forEach(point -> out.appendCodePoint(
                Character.isISOControl(point) || Character.getType(point) == Character.SURROGATE ? '?' : point));
        return out.toString();
    }

    /** `a, b, c`: the first of many names. */
    public static String some(Iterable<?> names, int most) {
        StringBuilder out = new StringBuilder();
        int count = 0;
        for (Object name : names) {
            if (count < most) {
                out.append(count == 0 ? "" : ", ").append(name);
            }
            count++;
        }
        return count <= most ? out.toString() : out + " or one of " + (count - most) + " more";
    }

    /** The message of an exception, or its name where it has none, on one line. */
    public static String of(Throwable error) {
        String message = error.getMessage();
        return message == null || message.isEmpty() ? error.getClass().getSimpleName() : plain(message);
    }
}
