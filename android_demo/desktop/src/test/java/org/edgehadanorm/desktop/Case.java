package org.edgehadanorm.desktop;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.BundleException;
import org.edgehadanorm.core.Json;
import org.edgehadanorm.core.Original;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Progress;
import org.edgehadanorm.core.Request;

/** A picture that is asked of a bundle, and what Python makes of it: a line of cases.json in the folder `cases`. */
public final class Case {
    private final Map<?, ?> entry;

    private Case(Map<?, ?> entry) {
        this.entry = entry;
    }

    public static List<Case> all() throws IOException {
        File file = new File(System.getProperty("cases"), "cases.json");
        String text = new String(Files.readAllBytes(file.toPath()), StandardCharsets.UTF_8);
        List<Case> cases = new ArrayList<>();
        for (Object entry : (List<?>) Json.parse(text)) {
            cases.add(new Case((Map<?, ?>) entry));
        }
        return cases;
    }

    public static Case named(String name) throws IOException {
        return all().stream().filter(one -> one.toString().equals(name)).findFirst().get();
    }

    /** The first that is asked of the bundle in a folder. */
    public static Case of(File folder) throws IOException {
        return all().stream().filter(one -> one.folder().equals(folder)).findFirst().get();
    }

    public File folder() {
        return new File((String) entry.get("bundle"));
    }

    public Bundle bundle() throws BundleException {
        return Bundle.open(folder(), Progress.NONE);
    }

    public Request request() throws IOException {
        Request request = new Request((String) entry.get("prompt"), (String) entry.get("negative"),
                (Long) entry.get("seed"), (String) entry.get("plan"), ((Number) entry.get("guidance")).doubleValue());
        Map<?, ?> begin = (Map<?, ?>) entry.get("original");
        return begin == null ? request : request.beginningWith(
                new Original(png(begin, "picture").get(), png(begin, "mask")),
                ((Number) begin.get("strength")).doubleValue());
    }

    private static Optional<Picture> png(Map<?, ?> begin, String key) throws IOException {
        Object name = begin.get(key);
        return name == null ? Optional.empty()
                : Optional.of(Png.read(new File(System.getProperty("cases"), (String) name)));
    }

    public List<?> calls() {
        return (List<?>) entry.get("calls");
    }

    public String pixels() {
        return (String) entry.get("pixels");
    }

    @Override
    public String toString() {
        return (String) entry.get("name");
    }
}
