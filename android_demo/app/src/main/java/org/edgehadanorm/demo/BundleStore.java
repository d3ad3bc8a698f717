package org.edgehadanorm.demo;

import java.io.DataInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;

import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.BundleException;
import org.edgehadanorm.core.BundleZip;
import org.edgehadanorm.core.Progress;

/** The bundles on this device, a folder each, and which of them is chosen. One thread at a time. */
final class BundleStore {
    /** The name of the bundle that comes with the app. */
    static final String REFERENCE = "reference";
    private static final String CHOSEN = "chosen.txt";
    private static final String PACKED = "reference.txt";
    private static final int LONGEST_NAME = 60;

    /** A bundle that comes with the app, packed. */
    interface Packed {
        /** Which one it is: another text with every installation of the app. */
        String version();

        /** Its zip, or nothing where the app was built without one. */
        Optional<InputStream> open() throws IOException;
    }

    private final File root;
    private final File bundles;

    /** root: a folder of the app's own. */
    BundleStore(File root) {
        this.root = root;
        this.bundles = new File(root, "bundles");
    }

    /** Names of the bundles, in order. */
    List<String> names() {
        List<String> names = new ArrayList<>();
        File[] folders = bundles.listFiles(file -> file.isDirectory() && !file.getName().startsWith("."));
        for (File folder : folders == null ? new File[0] : folders) {
            names.add(folder.getName());
        }
        names.sort(null);
        return names;
    }

    File folder(String name) {
        return new File(bundles, name);
    }

    /** The chosen one, or else the first; nothing if there is none. */
    Optional<String> chosen() {
        List<String> names = names();
        Optional<String> name = read(CHOSEN).filter(names::contains);
        return name.isPresent() || names.isEmpty() ? name : Optional.of(names.get(0));
    }

    void choose(String name) {
        write(CHOSEN, name);
    }

    /** Unpacks the bundle that comes with the app if this installation has not done so. A deleted one stays deleted. */
    void unpackOnce(Packed packed, Progress progress) throws BundleException {
        if (read(PACKED).filter(packed.version()::equals).isPresent()) {
            return;
        }
        try {
            Optional<InputStream> zip = packed.open();
            if (zip.isPresent()) {
                try (InputStream in = zip.get()) {
                    delete(REFERENCE);
                    unpack(in, REFERENCE, progress);
                }
            }
        } catch (IOException error) {
            throw new BundleException("The bundle in the app cannot be read: " + error.getMessage(), error);
        }
        write(PACKED, packed.version());
    }

    /**
     * Adds a zipped bundle under the name of its file, or `NAME-2` where that is taken. Throws BundleException, and
     * leaves nothing behind, where it is damaged or what runs these targets cannot make pictures with it.
     */
    Bundle add(InputStream zip, String fileName, Set<String> targets, Progress progress) throws BundleException {
        String plain = plainName(fileName);
        String name = plain;
        for (int number = 2; folder(name).exists(); number++) {
            name = plain + "-" + number;
        }
        Bundle bundle = unpack(zip, name, progress);
        try {
            bundle.requireRunnable(targets);
        } catch (BundleException error) {
            delete(name);
            throw error;
        }
        return bundle;
    }

    void delete(String name) {
        // Without its name first: a bundle is there whole or not at all.
        File gone = new File(bundles, "." + name + ".deleted");
        BundleZip.delete(gone);
        BundleZip.delete(folder(name).renameTo(gone) ? gone : folder(name));
    }

    /** Letters, digits, `-`, `_` and `.` of a file's name without its ending. */
    static String plainName(String fileName) {
        String name = fileName.replaceAll("(?i)\\.zip$", "").replaceAll("[^\\p{L}\\p{N}._-]+", "-")
                .replaceAll("^[.-]+|[.-]+$", "");
        name = name.substring(0, Math.min(LONGEST_NAME, name.length()));
        return name.isEmpty() ? "bundle" : name;
    }

    private Bundle unpack(InputStream zip, String name, Progress progress) throws BundleException {
        if (!bundles.isDirectory() && !bundles.mkdirs()) {
            throw new BundleException("The folder " + bundles + " cannot be made: free some storage and try again");
        }
        return BundleZip.unpack(zip, folder(name), progress);
    }

    private Optional<String> read(String file) {
        File path = new File(root, file);
        byte[] bytes = new byte[(int) Math.min(path.length(), 1000)];
        try (DataInputStream in = new DataInputStream(new FileInputStream(path))) {
            in.readFully(bytes);
            return Optional.of(new String(bytes, StandardCharsets.UTF_8));
        } catch (IOException error) {
            return Optional.empty();
        }
    }

    private void write(String file, String text) {
        try (FileOutputStream out = new FileOutputStream(new File(root, file))) {
            out.write(text.getBytes(StandardCharsets.UTF_8));
        } catch (IOException ignored) {
            // A choice that is not remembered is made again at the next start.
        }
    }
}
