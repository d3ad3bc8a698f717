package org.edgehadanorm.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** A program of a bundle: its file and the signatures of its methods. */
public final class Program {
    private final String role;
    private final String path;
    private final File file;
    private final Map<String, Method> methods = new LinkedHashMap<>();
    private final List<String> notes = new ArrayList<>();

    /** renamed: names that methods have in the file, by their names here, where these are others. */
    Program(String role, File folder, Map<String, Object> entry, Map<String, Object> renamed) {
        this.role = role;
        this.path = (String) entry.get("file");
        this.file = new File(folder, path);
        Map<String, Object> listed = Manifest.object(entry, "methods");
        for (String name : listed.keySet()) {
            String own = (String) renamed.getOrDefault(name, name);
            methods.put(name, new Method(role + "." + name, own, Manifest.object(listed, name)));
        }
        if (entry.get("notes") instanceof List) {
            for (Object line : (List<?>) entry.get("notes")) {
                notes.add(String.valueOf(line));
            }
        }
    }

    /** What it is for: denoiser, image_decoder, image_encoder, text_encoder, text_encoder_2 or text_encoder_3. */
    public String role() {
        return role;
    }

    /** Of its file in the bundle. */
    String path() {
        return path;
    }

    public File file() {
        return file;
    }

    /** By name, in the manifest's order. */
    public Map<String, Method> methods() {
        return Collections.unmodifiableMap(methods);
    }

    /** A method that the role has. */
    Method method(String name) {
        return methods.get(name);
    }

    /** The methods that a picture takes. */
    List<Method> called() {
        List<String> names = new ArrayList<>(Links.methods(role));
        names.add(Links.SMALL);
        names.retainAll(methods.keySet());
        return names.stream().map(methods::get).collect(Collectors.toList());
    }

    /** The `role.method` of the one that a picture takes by this name of the file's. */
    String named(String own) {
        return called().stream().filter(method -> method.own().equals(own)).map(Method::name).findFirst()
                .orElse(role + "." + own);
    }

    /** Loads it, with methods of it ready. */
    ModuleRunner load(ModuleRunner.Loader loader, Method... ready) throws RunnerException {
        return loader.load(file, Arrays.stream(ready).map(Method::own).toArray(String[]::new));
    }

    /** Lines that its user should read. */
    public List<String> notes() {
        return Collections.unmodifiableList(notes);
    }
}
