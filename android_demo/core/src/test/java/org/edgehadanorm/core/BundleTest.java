package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;

import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** A bundle says what it holds, and every spoilt file of it is named. */
public class BundleTest {
    @Rule
    public TemporaryFolder scratch = new TemporaryFolder();

    private File folder;

    @Before
    public void copy() throws IOException {
        folder = Files.bundle("three", new File(scratch.getRoot(), "my bundle"));
    }

    @Test
    public void itSaysWhatItHolds() throws BundleException {
        Bundle bundle = Bundle.open(folder, Progress.NONE);
        assertEquals("my bundle", bundle.name());
        assertEquals("xnnpack", bundle.target());
        assertEquals("PixArtTransformer2DModel", bundle.family());
        assertEquals("hadanorm-w8a8", bundle.recipe());
        assertEquals("edge-hadanorm", bundle.generator());
        assertEquals("Apache-2.0", bundle.licence());
        assertEquals(72, bundle.width());
        assertEquals(30, bundle.height());
        assertArrayEquals(new int[] {4, 10, 24}, bundle.latentShape());
        assertEquals(Arrays.asList("1", "2", "4", "8"), new ArrayList<>(bundle.plans().keySet()));
        assertEquals("4", bundle.defaultPlan());
        assertEquals("", bundle.defaultNegative());
        assertEquals(1.5, bundle.defaultGuidance(), 0);
        assertEquals(PromptForm.Kind.ENCODERS, bundle.prompt().kind());
        assertTrue(bundle.prompt().choices().isEmpty());
        assertTrue(bundle.prompt().negatives().isEmpty());
        assertEquals(new File(folder, "golden/picture.png"), bundle.golden().get().file());
        assertEquals(40, bundle.golden().get().psnrDb(), 0);
        Program decoder = bundle.programs().get("image_decoder");
        assertEquals(new File(folder, "image_decoder.pte"), decoder.file());
        assertEquals("latents float32 [1, 4, 10, 10]", decoder.methods().get("decode").inputs().get(0).toString());
        assertEquals(8, bundle.plan("8").steps());
        bundle.requireRunnable(Vectors.TARGETS);
    }

    @Test
    public void aMissingPlanIsAnsweredWithThoseThatThereAre() throws BundleException {
        Bundle bundle = Bundle.open(folder, Progress.NONE);
        BundleException error = assertThrows(BundleException.class, () -> bundle.plan("5"));
        assertEquals("bundle my bundle has no plan '5'; take one of 1, 2, 4, 8", error.getMessage());
    }

    @Test
    public void plansThatAreNumbersOfStepsComeFirstInTheirOrder() throws Exception {
        Bundle bundle = Bundle.open(Files.bundle("kept", new File(scratch.getRoot(), "c")), Progress.NONE);
        assertEquals(Arrays.asList("2", "4", "12", "some guided", "own", "own guidance"),
                new ArrayList<>(bundle.plans().keySet()));
        assertFalse(bundle.plan("own").guidance().isPresent());
        assertEquals(3.3, bundle.plan("own guidance").guidance().getAsDouble(), 0);
    }

    @Test
    public void bundlesOfOtherSchemasSayWhatToDo() throws IOException {
        edit("\"schema\": 3", "\"schema\": 2");
        refused("manifest of my bundle: made by an older edge-hadanorm (schema 2, this app reads 3); export the"
                + " checkpoint again");
        edit("\"schema\": 2", "\"schema\": 4");
        refused("manifest of my bundle: made by a newer edge-hadanorm (schema 4, this app reads 3); update the app");
    }

    @Test
    public void labelsAndCarriedPromptsAreThereToChooseFrom() throws Exception {
        Bundle labels = Bundle.open(Files.bundle("labels", new File(scratch.getRoot(), "a")), Progress.NONE);
        assertEquals(PromptForm.Kind.LABELS, labels.prompt().kind());
        assertEquals(Arrays.asList("tench, Tinca tinca", "finch", "jay"), labels.prompt().choices());
        assertEquals(labels.prompt().choices(), labels.prompt().negatives());
        Bundle embedded = Bundle.open(Files.bundle("embedded", new File(scratch.getRoot(), "b")), Progress.NONE);
        assertEquals(PromptForm.Kind.EMBEDDED, embedded.prompt().kind());
        assertEquals(Arrays.asList("a cat", "two dogs, running"), embedded.prompt().choices());
        assertEquals(Arrays.asList("blurry", ""), embedded.prompt().negatives());
        assertEquals("blurry", embedded.defaultNegative());
    }

    @Test
    public void progressCountsEveryByte() throws BundleException {
        List<Long> done = new ArrayList<>();
        long[] all = {0};
        Bundle bundle = Bundle.open(folder, (bytes, total) -> {
            done.add(bytes);
            all[0] = total;
        });
        for (int i = 1; i < done.size(); i++) {
            assertTrue(done.get(i) > done.get(i - 1));
        }
        assertEquals(all[0], (long) done.get(done.size() - 1));
        assertEquals(bundle.bytes(), all[0]);
    }

    @Test
    public void aMissingFileIsNamed() {
        assertTrue(new File(folder, "denoiser.pte").delete());
        refused("bundle my bundle: 'denoiser.pte' is missing; copy the bundle again");
    }

    @Test
    public void aTruncatedFileIsNamedWithItsSizes() throws IOException {
        try (RandomAccessFile file = new RandomAccessFile(new File(folder, "denoiser.pte"), "rw")) {
            file.setLength(3);
        }
        refused("'denoiser.pte' is truncated or of the wrong size, 3 bytes instead of 8; copy the bundle again");
    }

    @Test
    public void oneAlteredBitIsFound() throws IOException {
        byte[] content = Vectors.bytes(new File(folder, "text_encoder.tokenizer.json"));
        content[content.length / 2] ^= 1;
        Files.write(new File(folder, "text_encoder.tokenizer.json"), content);
        refused("'text_encoder.tokenizer.json' was altered, its sha256 differs; copy the bundle again");
    }

    @Test
    public void aForeignFileIsNamed() throws IOException {
        Files.write(new File(folder, "golden/.hidden"), "x");
        refused("'golden/.hidden' is foreign, the manifest does not list it; remove it");
    }

    @Test
    public void linksOutOfTheBundleAreRefused() throws IOException {
        for (String target : new String[] {"/etc/hostname", "..", "/", "../my bundle 2"}) {
            link("link", target);
            Files.write(new File(scratch.getRoot(), "my bundle 2"), "x");
            refused("'link' is a link out of the bundle; remove it");
        }
    }

    @Test
    public void linksToFoldersAndToNothingAreRefused() throws IOException {
        for (String target : new String[] {"golden", "nowhere"}) {
            link("link", target);
            refused("'link' is not a regular file; remove it");
        }
    }

    @Test
    public void whatIsNoBundleIsSaidSo() {
        assertTrue(new File(folder, "manifest.json").delete());
        refused("my bundle is not a bundle: it has no manifest.json; `edge-hadanorm export` makes bundles");
        folder = new File(folder, "missing");
        refused("missing is not a bundle");
    }

    @Test
    public void aBundleForAnotherRuntimeOpensButDoesNotRun() throws Exception {
        edit("\"target\": \"xnnpack\"", "\"target\": \"coreml\"");
        Bundle bundle = Bundle.open(folder, Progress.NONE);
        BundleException error =
                assertThrows(BundleException.class, () -> bundle.requireRunnable(Vectors.TARGETS));
        assertEquals("bundle my bundle was made for coreml; this app runs xnnpack: export it with --target xnnpack",
                error.getMessage());
        Generator unloaded = new Generator(bundle, Scripted.unloaded(bundle));
        BundleException again = assertThrows(BundleException.class,
                () -> unloaded.generate(new Request("", "", 0, "4", 1), Listener.NONE));
        assertEquals(error.getMessage(), again.getMessage());
    }

    @Test
    public void whatRunsAnotherTargetTakesItsBundlesAndRefusesTheRest() throws Exception {
        Bundle xnnpack = Bundle.open(folder, Progress.NONE);
        BundleException error = assertThrows(BundleException.class,
                () -> xnnpack.requireRunnable(new LinkedHashSet<>(Arrays.asList("vulkan", "coreml"))));
        assertEquals("bundle my bundle was made for xnnpack; this app runs vulkan or coreml: export it with --target"
                + " vulkan or coreml", error.getMessage());
        edit("\"target\": \"xnnpack\"", "\"target\": \"coreml\"");
        Bundle.open(folder, Progress.NONE).requireRunnable(new LinkedHashSet<>(Arrays.asList("vulkan", "coreml")));
    }

    @Test
    public void latentsThatNoPhoneHoldsAreRefused() throws Exception {
        File manifest = new File(folder, "manifest.json");
        String text = new String(Vectors.bytes(manifest), "UTF-8");
        Files.write(manifest, text.replaceAll("4,\\s*10,\\s*24\\s*]", "2147483647, 2147483647, 2147483647]"));
        Bundle bundle = Bundle.open(folder, Progress.NONE);
        Generator unloaded = new Generator(bundle, Scripted.unloaded(bundle));
        BundleException error = assertThrows(BundleException.class,
                () -> unloaded.generate(new Request("", "", 0, "4", 1), Listener.NONE));
        assertTrue(error.getMessage(), error.getMessage().contains("more than a phone can hold"));
    }

    @Test
    public void carriedPromptsOfAnotherNumberThanTheFileHasAreRefused() throws Exception {
        folder = Files.bundle("embedded", new File(scratch.getRoot(), "d"));
        edit("\"two dogs, running\"", "\"two dogs, running\", \"a dog\"");
        notDrawn("a dog", "", "bundle d: 'mask' has not one row for each of 5 prompts; export the bundle again");
    }

    @Test
    public void whereNoNegativePromptIsCarriedThereIsAWayWithout() throws Exception {
        folder = Files.bundle("embedded", new File(scratch.getRoot(), "d"));
        edit("\"negatives\"", "\"negatives\": [], \"others\"");
        notDrawn("a cat", "", "the bundle carries no negative prompt; take guidance 1, which needs none");
    }

    private void notDrawn(String prompt, String negative, String message) throws BundleException {
        Bundle bundle = Bundle.open(folder, Progress.NONE);
        Generator unloaded = new Generator(bundle, Scripted.unloaded(bundle));
        BundleException error = assertThrows(BundleException.class,
                () -> unloaded.generate(new Request(prompt, negative, 0, "4", 1.5), Listener.NONE));
        assertEquals(message, error.getMessage());
    }

    private void edit(String before, String after) throws IOException {
        File manifest = new File(folder, "manifest.json");
        String text = new String(Vectors.bytes(manifest), "UTF-8");
        assertTrue(text.contains(before));
        Files.write(manifest, text.replace(before, after));
    }

    private void link(String name, String target) throws IOException {
        Path link = folder.toPath().resolve(name);
        java.nio.file.Files.deleteIfExists(link);
        java.nio.file.Files.createSymbolicLink(link, java.nio.file.Paths.get(target));
    }

    private void refused(String message) {
        BundleException error = assertThrows(BundleException.class, () -> Bundle.open(folder, Progress.NONE));
        assertTrue(error.getMessage(), error.getMessage().contains(message));
        assertFalse(error.getMessage(), error.getMessage().contains("\n"));
    }
}
