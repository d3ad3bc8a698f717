package org.edgehadanorm.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** What a bundle takes as a prompt. */
public final class PromptForm {
    /** How a prompt becomes numbers. */
    public enum Kind {
        /** Any text, by text encoders. */
        ENCODERS,
        /** The name of one of the model's classes. */
        LABELS,
        /** One of the prompts that the bundle carries encoded. */
        EMBEDDED,
        /** Nothing: a transformer alone, which makes no pictures. */
        NONE
    }

    private final Kind kind;
    private final boolean lower;
    private final Map<String, Encoder> encoders = new LinkedHashMap<>();
    private final Map<String, Long> labels = new LinkedHashMap<>();
    private final List<String> choices = new ArrayList<>();
    private final List<String> negatives = new ArrayList<>();
    private final File embedded;

    /** prompt: the manifest's, empty for a transformer alone. */
    PromptForm(File folder, Map<String, Object> prompt) {
        lower = Boolean.TRUE.equals(prompt.get("lower"));
        Map<String, Object> listed = Manifest.object(prompt, "encoders");
        for (String role : listed.keySet()) {
            encoders.put(role, new Encoder(folder, Manifest.object(listed, role)));
        }
        Manifest.object(prompt, "labels").forEach((name, number) -> labels.put(name, (Long) number));
        Map<String, Object> carried = Manifest.object(prompt, "embedded");
        embedded = new File(folder, carried.isEmpty() ? "" : (String) carried.get("file"));
        if (prompt.get("labels") != null) {
            kind = Kind.LABELS;
            choices.addAll(labels.keySet());
            negatives.addAll(labels.keySet());
        } else if (!carried.isEmpty()) {
            kind = Kind.EMBEDDED;
            ((List<?>) carried.get("prompts")).forEach(text -> choices.add((String) text));
            ((List<?>) carried.get("negatives")).forEach(text -> negatives.add((String) text));
        } else {
            kind = encoders.isEmpty() ? Kind.NONE : Kind.ENCODERS;
        }
    }

    public Kind kind() {
        return kind;
    }

    /** The labels or embedded prompts to choose from; none where any text is taken. Labels may be left empty. */
    public List<String> choices() {
        return Collections.unmodifiableList(choices);
    }

    /** The same of negative prompts. */
    public List<String> negatives() {
        return Collections.unmodifiableList(negatives);
    }

    /** Whether prompts are lower-cased, and stripped of white space at their ends. */
    boolean lower() {
        return lower;
    }

    /** By role, in the manifest's order. */
    Map<String, Encoder> encoders() {
        return encoders;
    }

    /** Numbers of the classes by their names. */
    Map<String, Long> labels() {
        return labels;
    }

    /** The safetensors file of prompts that are carried encoded: a row for each of `choices`, then of `negatives`. */
    File embedded() {
        return embedded;
    }

    /** How one text encoder is asked. */
    static final class Encoder {
        private final File tokenizer;
        private final int length;
        private final int padId;
        private final String prefix;
        private final Map<Conditioning, long[]> kept = new EnumMap<>(Conditioning.class);

        Encoder(File folder, Map<String, Object> entry) {
            tokenizer = new File(folder, (String) entry.get("tokenizer"));
            length = Manifest.integer(entry, "length");
            padId = Manifest.integer(entry, "pad_id");
            prefix = (String) entry.get("prefix");
            if (entry.get("kept") != null) {
                Map<String, Object> places = Manifest.object(entry, "kept");
                kept.put(Conditioning.TEXT, longs(places.get("prompt")));
                kept.put(Conditioning.NEGATIVE, longs(places.get("negative")));
            }
        }

        private static long[] longs(Object list) {
            return ((List<?>) list).stream().mapToLong(number -> (Long) number).toArray();
        }

        /** A tokenizer.json. */
        File tokenizer() {
            return tokenizer;
        }

        /** Of the ids, which padId fills up. */
        int length() {
            return length;
        }

        int padId() {
            return padId;
        }

        /** Stands before every prompt but a negative one. */
        String prefix() {
            return prefix;
        }

        /** Places of the states that are given; none where all are. */
        Optional<long[]> kept(Conditioning conditioning) {
            return Optional.ofNullable(kept.get(conditioning));
        }
    }
}
