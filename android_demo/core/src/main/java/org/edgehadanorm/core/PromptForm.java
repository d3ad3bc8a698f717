package org.edgehadanorm.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

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
        } else if (!carried.isEmpty()) {
            kind = Kind.EMBEDDED;
            for (Object text : (List<?>) carried.get("prompts")) {
                choices.add((String) text);
            }
        } else {
            kind = encoders.isEmpty() ? Kind.NONE : Kind.ENCODERS;
        }
    }

    public Kind kind() {
        return kind;
    }

    /** The labels or embedded prompts to choose from; empty where any text is taken. The empty prompt is taken too. */
    public List<String> choices() {
        return Collections.unmodifiableList(choices);
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

    /** The safetensors file of prompts that are carried encoded. */
    File embedded() {
        return embedded;
    }

    /** How one text encoder is asked. */
    static final class Encoder {
        private final File tokenizer;
        private final int length;
        private final int padId;
        private final String prefix;

        Encoder(File folder, Map<String, Object> entry) {
            tokenizer = new File(folder, (String) entry.get("tokenizer"));
            length = Manifest.integer(entry, "length");
            padId = Manifest.integer(entry, "pad_id");
            prefix = (String) entry.get("prefix");
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

        /** Stands before every prompt but the empty one. */
        String prefix() {
            return prefix;
        }
    }
}
