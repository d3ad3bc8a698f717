package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** A manifest, edited or mutated or damaged, is read or refused as Python does it, and for the same place in it. */
public class ManifestTest {
    /** `.image.width is`, `a key of .programs is` and the like; quoted keys are shortened by each in its own way. */
    private static final Pattern PLACE = Pattern.compile("valid( manifest)?: ((a key of )?[^ ]+ (is|are|lists|has)).*");

    /** What is wrong with a plan, and which. */
    private static final Pattern PLAN = Pattern.compile("plan: (.*?)(, got .*)? \\(\\.sampling\\.plans");

    @Rule
    public TemporaryFolder scratch = new TemporaryFolder();

    private File folder;
    private List<Map<String, Object>> cases;

    @Before
    @SuppressWarnings("unchecked")
    public void write() throws IOException {
        Map<String, Object> all = Vectors.json(new File(Vectors.folder("bundles"), "manifests.json"));
        cases = (List<Map<String, Object>>) all.get("cases");
        folder = scratch.newFolder("bundle");
        for (Map.Entry<String, String> entry : ((Map<String, String>) all.get("files")).entrySet()) {
            write(entry.getKey(), Base64.getDecoder().decode(entry.getValue()));
        }
    }

    @Test
    public void everyManifestIsReadOrRefusedAsByPython() throws IOException {
        int read = 0;
        List<String> wrong = new ArrayList<>();
        for (Map<String, Object> each : cases) {
            byte[] manifest = Base64.getDecoder().decode((String) each.get("manifest"));
            write("manifest.json", manifest);
            String expected = (String) each.get("refusal");
            String found = refusal();
            if (!agree(expected, found)) {
                wrong.add(expected + "\n    not " + found);
            }
            read += expected == null ? 1 : 0;
        }
        assertTrue(wrong.size() + " of " + cases.size() + ": " + wrong, wrong.isEmpty());
        assertTrue(read + " of " + cases.size() + " are good", read > 20 && read < cases.size() / 2);
    }

    private static boolean agree(String expected, String found) {
        if (expected == null || found == null) {
            return expected == null && found == null;
        }
        Matcher place = PLACE.matcher(expected);
        Matcher foundPlace = PLACE.matcher(found);
        if (expected.contains(".methods.") && expected.contains(" is missing")) {  // of several, Python takes any
            return found.contains(" is missing");
        }
        if (place.find() && !place.group(2).contains("[")) {
            return foundPlace.find() && foundPlace.group(2).equals(place.group(2));
        }
        Matcher plan = PLAN.matcher(expected);
        Matcher foundPlan = PLAN.matcher(found);
        if (plan.find()) {
            return foundPlan.find() && foundPlan.group(1).equals(plan.group(1));
        }
        return Stream.of("is not JSON", "made by a newer", "made by an older")
                .allMatch(words -> expected.contains(words) == found.contains(words));
    }

    /** What is said of the bundle; null where it is good. */
    private String refusal() {
        try {
            Bundle bundle = Bundle.open(folder, Progress.NONE);
            assertNotNull(bundle.prompt().kind());
            assertEquals(3, bundle.latentShape().length);
            assertTrue(bundle.golden().isPresent() ? bundle.golden().get().file().isFile() : true);
            assertTrue(bundle.width() > 0 && bundle.height() > 0 && bundle.bytes() >= 0);
            return null;
        } catch (BundleException error) {
            assertFalse(error.getMessage(), error.getMessage().contains("\n"));
            return error.getMessage();
        }
    }

    private void write(String name, byte[] content) throws IOException {
        File file = new File(folder, name);
        file.getParentFile().mkdirs();
        try (OutputStream stream = new FileOutputStream(file)) {
            stream.write(content);
        }
    }
}
