package org.edgehadanorm.core.text;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

import org.edgehadanorm.core.BundleException;

/**
 * An object of a tokenizer.json that is being understood: what is asked for has to be there, and `finish` finds what
 * nobody asked for, so that nothing in the file is passed over.
 */
final class Part {
    private final Map<?, ?> values;
    private final String where;
    private final Set<String> asked = new HashSet<>();

    /** where: its place in the file, such as `normalizer[1]`. */
    Part(Object value, String where) throws BundleException {
        this.where = where;
        if (!(value instanceof Map)) {
            throw new BundleException(where + " is not an object; copy the bundle again");
        }
        values = (Map<?, ?>) value;
    }

    String where() {
        return where;
    }

    /** Whether a key has a value that is not null. */
    boolean has(String key) {
        return get(key) != null;
    }

    /** Any value; null where there is none. */
    Object get(String key) {
        asked.add(key);
        return values.get(key);
    }

    Part part(String key) throws BundleException {
        return new Part(get(key), where + "." + key);
    }

    /** The objects in a list. */
    List<Part> parts(String key) throws BundleException {
        List<Part> parts = new ArrayList<>();
        for (Object value : list(key)) {
            parts.add(new Part(value, where + "." + key + "[" + parts.size() + "]"));
        }
        return parts;
    }

    List<?> list(String key) throws BundleException {
        return typed(key, List.class);
    }

    String text(String key) throws BundleException {
        return typed(key, String.class);
    }

    /** A text, or another where the key is absent or null. */
    String text(String key, String otherwise) throws BundleException {
        return has(key) ? text(key) : otherwise;
    }

    /** A flag, or another where the key is absent or null. */
    boolean flag(String key, boolean otherwise) throws BundleException {
        return has(key) ? typed(key, Boolean.class) : otherwise;
    }

    int integer(String key) throws BundleException {
        long value = typed(key, Long.class);
        if (value < 0 || value > Integer.MAX_VALUE) {
            throw new BundleException(where + "." + key + " is " + value + "; copy the bundle again");
        }
        return (int) value;
    }

    /** Throws BundleException where a key has another value than null. */
    void requireNull(String key) throws BundleException {
        if (has(key)) {
            throw unknown(key + " other than null");
        }
    }

    /** Throws BundleException where there are keys that have not been asked for. */
    void finish() throws BundleException {
        for (Object key : values.keySet()) {
            if (!asked.contains(key)) {
                throw unknown("the key '" + key + "'");
            }
        }
    }

    /** That something of this part is not understood. */
    BundleException unknown(String what) {
        return new BundleException(where + ": this app does not understand " + what
                + "; update the app, or export the bundle with --prompts-embedded");
    }

    private <T> T typed(String key, Class<T> type) throws BundleException {
        Object value = get(key);
        if (!type.isInstance(value)) {
            throw new BundleException(where + "." + key + " is missing or of another kind; copy the bundle again");
        }
        return type.cast(value);
    }
}
