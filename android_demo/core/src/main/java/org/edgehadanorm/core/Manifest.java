package org.edgehadanorm.core;

import java.io.File;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** manifest.json: read, and found to follow the schema with parts that go together. */
final class Manifest {
    static final String FILE = "manifest.json";
    /** Far more than any manifest has, and little enough for any device. */
    private static final int MOST_BYTES = 64 << 20;

    private final Map<?, ?> values;
    private final Map<String, Object> renamed;

    /** renamed: names that methods have in their programs, by role and by name here, where these are others. */
    private Manifest(Map<?, ?> values, Map<String, Object> renamed) {
        this.values = values;
        this.renamed = renamed;
    }

    /** The manifest in a folder; `name` is the bundle's in messages. */
    static Manifest read(File folder, String name) throws BundleException {
        File file = new File(folder, FILE);
        if (!file.isFile()) {
            throw new BundleException(
                    name + " is not a bundle: it has no " + FILE + "; `edge-hadanorm export` makes bundles");
        }
        String where = "manifest of " + name;
        return of(JsonFile.read(file, where, MOST_BYTES), where);
    }

    /** Of a value that `where` names in messages. */
    static Manifest of(Object json, String where) throws BundleException {
        Object schema = json instanceof Map ? ((Map<?, ?>) json).get("schema") : null;
        if (schema instanceof Long && (Long) schema > 0 && (Long) schema < 1L << 31 && !schema.equals(Schema.VERSION)) {
            boolean newer = (Long) schema > Schema.VERSION;
            throw new BundleException(where + ": made by " + (newer ? "a newer" : "an older")
                    + " edge-hadanorm (schema " + schema + ", this app reads " + Schema.VERSION + "); "
                    + (newer ? "update the app" : "export the checkpoint again"));
        }
        try {
            Schema.MANIFEST.check(json, "");
            Manifest manifest = new Manifest((Map<?, ?>) json, Collections.emptyMap());
            Links.check(manifest);
            Sizes.check(manifest);
            return manifest;
        } catch (BundleException error) {
            throw new BundleException(where + " is not valid: " + error.getMessage() + "; export the bundle again");
        }
    }

    /** The name of the size of its pictures, such as `768x512`. */
    String size() {
        return Sizes.name(object("image"));
    }

    /** The same at another of its sizes. */
    Manifest at(String size) {
        return new Manifest(Sizes.applied(values, size),
                object(object(object("sizes"), size), "methods"));
    }

    /** The programs, in a folder, by role. */
    Map<String, Program> programs(File folder) {
        Map<String, Program> programs = new LinkedHashMap<>();
        Map<String, Object> listed = object("programs");
        for (String role : listed.keySet()) {
            programs.put(role, new Program(role, folder, object(listed, role), object(renamed, role)));
        }
        return programs;
    }

    /** The value of a key. */
    Object get(String key) {
        return values.get(key);
    }

    String text(String key) {
        return (String) values.get(key);
    }

    /** The object that is the value of a key; empty where it is null. */
    Map<String, Object> object(String key) {
        return object(values, key);
    }

    /** The object that is the value of a key of another; empty where it is null. */
    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Map<?, ?> parent, String key) {
        Object value = parent.get(key);
        return value == null ? new LinkedHashMap<>() : (Map<String, Object>) value;
    }

    @SuppressWarnings("unchecked")
    static List<Map<String, Object>> objects(Map<?, ?> parent, String key) {
        return (List<Map<String, Object>>) parent.get(key);
    }

    /** An integer below 2^31. */
    static int integer(Map<?, ?> parent, String key) {
        return ((Long) parent.get(key)).intValue();
    }
}
