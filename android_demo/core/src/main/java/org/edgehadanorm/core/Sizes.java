package org.edgehadanorm.core;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/** The sizes of pictures that a manifest is for besides its own: at each of them it is another manifest. */
final class Sizes {
    private Sizes() {
    }

    /** The name of the size of an image, such as `768x512`. */
    static String name(Map<String, Object> image) {
        return image.get("width") + "x" + image.get("height");
    }

    /** The values of a manifest at one of its sizes, which has no other. The golden sample is not of this size. */
    static Map<String, Object> applied(Map<?, ?> values, String name) {
        Map<String, Object> size = Manifest.object(Manifest.object(values, "sizes"), name);
        Map<String, Object> made = new LinkedHashMap<>();
        values.forEach((key, value) -> made.put((String) key, value));
        made.put("image", size.get("image"));
        made.put("latents", size.get("latents"));
        made.put("golden", null);
        made.put("sizes", Collections.emptyMap());
        Map<String, Object> methods = Manifest.object(size, "methods");
        for (String role : methods.keySet()) {
            Map<String, Object> program = child(child(made, "programs"), role);
            Map<String, Object> listed = child(program, "methods");
            Map<String, Object> all = new LinkedHashMap<>(listed);
            Manifest.object(methods, role).forEach((method, other) -> listed.put(method, all.get(other)));
        }
        if (size.get("plans") != null && values.get("sampling") != null) {
            child(made, "sampling").put("plans", size.get("plans"));
        }
        return made;
    }

    /** The object that is the value of a key, which becomes a copy of itself that may be changed. */
    private static Map<String, Object> child(Map<String, Object> parent, String key) {
        Map<String, Object> copy = new LinkedHashMap<>(Manifest.object(parent, key));
        parent.put(key, copy);
        return copy;
    }

    /** Throws BundleException where a size of a manifest is not what it says, or speaks of what is not there. */
    static void check(Manifest manifest) throws BundleException {
        for (String name : manifest.object("sizes").keySet()) {
            String where = ".sizes[" + Kind.shown(name) + "]";
            Map<String, Object> size = Manifest.object(manifest.object("sizes"), name);
            if (!name.equals(name(Manifest.object(size, "image")))) {
                throw new BundleException(where + " is of a picture of " + name(Manifest.object(size, "image")));
            }
            if (name.equals(manifest.size())) {
                throw new BundleException(where + " is the default size");
            }
            checkMethods(manifest, Manifest.object(size, "methods"), where);
            try {
                Links.check(manifest.at(name));
            } catch (BundleException error) {
                throw new BundleException(error.getMessage() + " (" + where + ")");
            }
        }
    }

    private static void checkMethods(Manifest manifest, Map<String, Object> methods, String where)
            throws BundleException {
        Map<String, Object> programs = manifest.object("programs");
        for (String role : methods.keySet()) {
            if (!programs.containsKey(role)) {
                throw new BundleException(where + ".methods has " + Kind.shown(role) + ", which is no program");
            }
            Map<String, Object> listed = Manifest.object(Manifest.object(programs, role), "methods");
            Map<String, Object> others = Manifest.object(methods, role);
            for (String method : others.keySet()) {
                if (!listed.containsKey(others.get(method))) {
                    throw new BundleException(where + ".methods." + Text.plain(role) + "." + Text.plain(method) + " is "
                            + Kind.shown(others.get(method)) + ", which the program does not have");
                }
            }
        }
    }
}
