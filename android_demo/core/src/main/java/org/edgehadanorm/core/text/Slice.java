package org.edgehadanorm.core.text;

import java.util.Arrays;

/** A piece of a prompt, perhaps normalized, that knows where in the prompt each of its chars comes from. */
final class Slice {
    private final String text;
    private final int[] origins;

    /** origins: an index in the prompt for each char of the text. */
    Slice(String text, int[] origins) {
        this.text = text;
        this.origins = origins;
    }

    /** A whole prompt. */
    static Slice of(String prompt) {
        int[] origins = new int[prompt.length()];
        for (int i = 0; i < origins.length; i++) {
            origins[i] = i;
        }
        return new Slice(prompt, origins);
    }

    String text() {
        return text;
    }

    boolean isEmpty() {
        return text.isEmpty();
    }

    /** Where in the prompt a char comes from; after the last one, where the last one does. */
    int origin(int index) {
        return origins.length == 0 ? 0 : origins[Math.min(index, origins.length - 1)];
    }

    /** Whether its first char is the prompt's first. */
    boolean isFirst() {
        return origin(0) == 0;
    }

    Slice part(int start, int end) {
        return new Slice(text.substring(start, end), Arrays.copyOfRange(origins, start, end));
    }

    /** The same with a text before it; an empty slice stays empty. */
    Slice after(String before) {
        if (isEmpty()) {
            return this;
        }
        Builder builder = new Builder();
        builder.append(before, origin(0));
        builder.append(this, 0, text.length());
        return builder.slice();
    }

    /** Puts a slice together. */
    static final class Builder {
        private final StringBuilder text = new StringBuilder();
        private int[] origins = new int[64];

        /** A text all of which comes from one place. */
        void append(CharSequence added, int origin) {
            reserve(added.length());
            Arrays.fill(origins, text.length(), text.length() + added.length(), origin);
            text.append(added);
        }

        void append(Slice added, int start, int end) {
            reserve(end - start);
            System.arraycopy(added.origins, start, origins, text.length(), end - start);
            text.append(added.text, start, end);
        }

        boolean isEmpty() {
            return text.length() == 0;
        }

        Slice slice() {
            return new Slice(text.toString(), Arrays.copyOf(origins, text.length()));
        }

        private void reserve(int count) {
            if (text.length() + count > origins.length) {
                origins = Arrays.copyOf(origins, 2 * (text.length() + count));
            }
        }
    }
}
