package org.edgehadanorm.core.text;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/**
 * SentencePiece's precompiled map of characters: a double-array trie from UTF-8 to places in a blob of texts.
 *
 * <p>File: the size of the trie in bytes as uint32, its units as uint32, all little-endian, and the blob, in which
 * every text ends with a zero byte. A unit has in bits 0 to 7 its label, in bit 8 whether a key ends below it, in bit 9
 * whether its offset counts 256, in bits 10 to 30 the offset; bit 31 marks the unit of an end, whose other bits are the
 * value.
 */
final class Charsmap implements Normalizer {
    /** Clusters of as many bytes are looked up character by character only. */
    private static final int LONG_CLUSTER = 6;

    private final int[] units;
    private final byte[] blob;

    /** Throws IllegalArgumentException for what is no such file. */
    Charsmap(byte[] file) {
        ByteBuffer buffer = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN);
        int size = buffer.remaining() < 4 ? -1 : buffer.getInt();
        if (size < 4 || size % 4 != 0 || size > buffer.remaining()) {
            throw new IllegalArgumentException("no trie of " + size + " bytes");
        }
        units = new int[size / 4];
        buffer.asIntBuffer().get(units);
        buffer.position(4 + size);
        blob = new byte[buffer.remaining()];
        buffer.get(blob);
    }

    @Override
    public Slice normalized(Slice slice) {
        Slice.Builder builder = new Slice.Builder();
        String text = slice.text();
        int end;
        for (int at = 0; at < text.length(); at = end) {
            end = Graphemes.end(text, at);
            byte[] cluster = text.substring(at, end).getBytes(StandardCharsets.UTF_8);
            int place = cluster.length < LONG_CLUSTER ? place(cluster) : -1;
            if (place >= 0) {
                append(textAt(place), slice, at, builder);
            } else {
                characters(slice, at, end, builder);
            }
        }
        return builder.slice();
    }

    private void characters(Slice slice, int start, int end, Slice.Builder builder) {
        String text = slice.text();
        int next;
        for (int at = start; at < end; at = next) {
            next = text.offsetByCodePoints(at, 1);
            int place = place(text.substring(at, next).getBytes(StandardCharsets.UTF_8));
            if (place >= 0) {
                append(textAt(place), slice, at, builder);
            } else {
                append(text.substring(at, next), slice, at, builder);
            }
        }
    }

    /** What comes first counts as the beginning of the prompt, even where characters before it were dropped. */
    private static void append(String text, Slice slice, int at, Slice.Builder builder) {
        builder.append(text, slice.origin(builder.isEmpty() ? 0 : at));
    }

    /** Where in the blob the text for the shortest key that these bytes begin with is; -1 where there is none. */
    private int place(byte[] bytes) {
        int node = offset(units[0]);
        for (byte value : bytes) {
            int label = value & 0xFF;
            node ^= label;
            if (label == 0 || node >= units.length || (units[node] & 0x800000FF) != label) {
                return -1;
            }
            boolean ends = (units[node] & 0x100) != 0;
            node ^= offset(units[node]);
            if (ends) {
                return node < units.length ? units[node] & 0x7FFFFFFF : -1;
            }
        }
        return -1;
    }

    private static int offset(int unit) {
        return unit >>> 10 << ((unit & 0x200) >>> 6);
    }

    private String textAt(int place) {
        int end = place;
        while (end < blob.length && blob[end] != 0) {
            end++;
        }
        return new String(blob, Math.min(place, end), Math.max(end - place, 0), StandardCharsets.UTF_8);
    }
}
