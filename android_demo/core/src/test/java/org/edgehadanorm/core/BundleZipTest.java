package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** A .zip becomes a bundle or leaves nothing behind, whatever is in it. */
public class BundleZipTest {
    @Rule
    public TemporaryFolder scratch = new TemporaryFolder();

    private final Map<String, byte[]> files = new LinkedHashMap<>();
    private File target;

    @Before
    public void read() throws IOException {
        File source = new File(Vectors.folder("loops"), "pixels/bundle");
        for (String name : Files.names(source)) {
            files.put(name, Vectors.bytes(new File(source, name)));
        }
        target = new File(scratch.newFolder("bundles"), "mine");
    }

    @Test
    public void aManifestAtTheRootIsFound() throws Exception {
        assertUnpacks(zip(""));
    }

    @Test
    public void aManifestInTheTopFolderIsFound() throws Exception {
        assertUnpacks(zip("any name/"));
    }

    @Test
    public void whatTheFinderAddsIsLeftOut() throws Exception {
        files.put("__MACOSX/._manifest.json", new byte[9]);
        files.put(".DS_Store", new byte[9]);
        files.put("golden/.DS_Store", new byte[9]);
        assertUnpacks(zip(""));
    }

    @Test
    public void whatAKilledImportLeftIsRemoved() throws Exception {
        Files.write(new File(target.getParentFile(), ".mine.partial/golden/old.png"), "old");
        assertUnpacks(zip(""));
    }

    @Test
    public void progressCountsTheBytes() throws Exception {
        List<Long> unpacked = new ArrayList<>();
        List<Long> verified = new ArrayList<>();
        long all = files.values().stream().mapToLong(content -> content.length).sum();
        long listed = all - files.get("manifest.json").length;
        BundleZip.unpack(new ByteArrayInputStream(zip("")), target, (done, total) -> {
            (total < 0 ? unpacked : verified).add(done);
            assertEquals(total < 0 ? -1 : listed, total);
        });
        assertEquals(all, (long) Collections.max(unpacked));
        assertEquals(listed, (long) Collections.max(verified));
    }

    @Test
    public void noEntryLeavesTheFolder() throws IOException {
        String[] names = {
            "../evil", "../../evil", "/evil", "golden/../../evil", "golden/..", "..", "a\\..\\..\\evil", "C:evil",
            "./x", "a//b", "//evil", "x\u0000y", "x\ny",
        };
        for (String name : names) {
            Map<String, byte[]> before = new LinkedHashMap<>(files);
            files.put(name, "evil".getBytes("UTF-8"));
            refused(zip(""), "not a plain relative path");
            files.clear();
            files.putAll(before);
        }
        assertEquals(Arrays.asList("bundles"), Arrays.asList(scratch.getRoot().list()));
    }

    @Test
    public void noFileIsLargerThanTheLimit() throws IOException {
        files.put("bomb", new byte[50 << 20]);
        byte[] zip = zip("");
        assertTrue(zip.length < 1 << 20);
        BundleException error = assertThrows(BundleException.class,
                () -> BundleZip.unpack(new ByteArrayInputStream(zip), target, 1 << 20, Progress.NONE));
        assertTrue(error.getMessage(), error.getMessage().contains("unpacks to more than 1048576 bytes"));
        assertNothingLeft();
    }

    @Test
    public void thereAreNotEndlesslyManyEntries() throws IOException {
        for (int i = 0; i < 10_001; i++) {
            files.put("f" + i, new byte[0]);
        }
        refused(zip(""), "more than 10000 entries");
    }

    @Test
    public void aTruncatedFileIsRefusedWhereverItEnds() throws IOException {
        byte[] zip = zip("");
        int directory = directory(zip);
        for (int end = 0; end < directory; end += 1 + zip.length / 61) {
            refused(Arrays.copyOf(zip, end), "");
        }
    }

    @Test
    public void aDamagedByteIsFound() throws IOException {
        byte[] zip = zip("");
        for (int at = 3; at < directory(zip); at += 1 + zip.length / 61) {
            byte[] damaged = zip.clone();
            damaged[at] ^= 0x55;
            try {
                Bundle bundle = BundleZip.unpack(new ByteArrayInputStream(damaged), target, Progress.NONE);
                BundleZip.delete(bundle.folder());  // a time or another field that says nothing of the content
            } catch (BundleException error) {
                assertNothingLeft();
            }
        }
    }

    @Test
    public void aStreamThatFailsLeavesNothing() throws IOException {
        InputStream failing = new FilterInputStream(new ByteArrayInputStream(zip(""))) {
            private int left = 4000;

            @Override
            public int read(byte[] into, int at, int count) throws IOException {
                left -= count;
                if (left < 0) {
                    throw new IOException("No space left on device");
                }
                return super.read(into, at, count);
            }
        };
        BundleException error = assertThrows(BundleException.class,
                () -> BundleZip.unpack(failing, target, Progress.NONE));
        assertTrue(error.getMessage(), error.getMessage().contains("No space left on device"));
        assertNothingLeft();
    }

    @Test
    public void aBundleThatIsNotWholeIsRefused() throws IOException {
        files.remove("denoiser.pte");
        refused(zip(""), "bundle mine: 'denoiser.pte' is missing");
        files.clear();
        files.put("holiday.jpg", new byte[100]);
        refused(zip(""), "mine is not a bundle: it has no manifest.json");
        refused("not a zip".getBytes("UTF-8"), "not a .zip file");
        refused(new byte[0], "not a .zip file");
    }

    @Test
    public void twoBundlesInOneFileAreRefused() throws IOException {
        Map<String, byte[]> both = new LinkedHashMap<>();
        files.forEach((name, content) -> both.put("one/" + name, content));
        files.forEach((name, content) -> both.put("two/" + name, content));
        files.clear();
        files.putAll(both);
        refused(zip(""), "mine is not a bundle");
    }

    @Test
    public void anExistingBundleStays() throws Exception {
        Files.write(new File(target, "keep"), "x");
        BundleException error = assertThrows(BundleException.class,
                () -> BundleZip.unpack(new ByteArrayInputStream(zip("")), target, Progress.NONE));
        assertTrue(error.getMessage(), error.getMessage().contains("mine is already here"));
        assertEquals(Arrays.asList("keep"), Files.names(target));
    }

    @Test
    public void deletingDoesNotFollowLinks() throws IOException {
        File kept = Files.write(new File(scratch.getRoot(), "kept/file"), "x");
        target.mkdirs();
        java.nio.file.Files.createSymbolicLink(target.toPath().resolve("link"), kept.getParentFile().toPath());
        BundleZip.delete(target);
        assertTrue(kept.exists() && !target.exists());
    }

    private void assertUnpacks(byte[] zip) throws Exception {
        Bundle bundle = BundleZip.unpack(new ByteArrayInputStream(zip), target, Progress.NONE);
        assertEquals(target, bundle.folder());
        assertEquals("mine", bundle.name());
        assertArrayEquals(new String[] {"mine"}, target.getParentFile().list());
        Bundle.open(target, Progress.NONE).requireRunnable(Vectors.TARGETS);
        assertTrue(bundle.programs().get("denoiser").file().isFile());
    }

    private void refused(byte[] zip, String message) {
        BundleException error = assertThrows(BundleException.class,
                () -> BundleZip.unpack(new ByteArrayInputStream(zip), target, Progress.NONE));
        assertTrue(error.getMessage(), error.getMessage().contains(message));
        assertTrue(error.getMessage(), !error.getMessage().contains("\n"));
        assertNothingLeft();
    }

    private void assertNothingLeft() {
        assertEquals(0, target.getParentFile().list().length);
    }

    private byte[] zip(String prefix) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ZipOutputStream zip = new ZipOutputStream(bytes)) {
            for (Map.Entry<String, byte[]> file : files.entrySet()) {
                zip.putNextEntry(new ZipEntry(prefix + file.getKey()));
                zip.write(file.getValue());
            }
        }
        return bytes.toByteArray();
    }

    /** Where the directory at the end of a .zip begins. */
    private static int directory(byte[] zip) {
        int at = zip.length - 22 + 16;
        return zip[at] & 0xFF | (zip[at + 1] & 0xFF) << 8 | (zip[at + 2] & 0xFF) << 16 | (zip[at + 3] & 0xFF) << 24;
    }
}
