package org.edgehadanorm.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.HashSet;
import java.util.Set;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;

/** Bundles that come as a .zip file, with the manifest at its root or in its single top folder. */
public final class BundleZip {
    /** More than any bundle that a phone can run has. */
    public static final long MOST_BYTES = 16L << 30;
    private static final int MOST_ENTRIES = 10_000;
    private static final int CHUNK = 1 << 16;

    private final File partial;
    private final long mostBytes;
    private final Progress progress;
    private final Set<String> written = new HashSet<>();
    private long bytes;

    private BundleZip(File partial, long mostBytes, Progress progress) {
        this.partial = partial;
        this.mostBytes = mostBytes;
        this.progress = progress;
    }

    /** The same with MOST_BYTES. */
    public static Bundle unpack(InputStream zip, File target, Progress progress) throws BundleException {
        return unpack(zip, target, MOST_BYTES, progress);
    }

    /**
     * Unpacks a bundle into a folder that does not exist yet, verified; it appears whole or not at all. Meanwhile it
     * lies beside it as `.NAME.partial`, which what a killed run left is removed from first.
     *
     * @param mostBytes of all unpacked files
     * @param progress is told of the bytes unpacked, whose total is not known (-1), then of the bytes verified
     * @throws BundleException where the file is damaged, holds no bundle, unpacks to too much or leaves its folder
     */
    public static Bundle unpack(InputStream zip, File target, long mostBytes, Progress progress)
            throws BundleException {
        if (target.exists()) {
            throw new BundleException(target.getName() + " is already here; remove it first");
        }
        File partial = new File(target.getParentFile(), "." + target.getName() + ".partial");
        try {
            delete(partial);
            create(partial);
            new BundleZip(partial, mostBytes, progress).extract(zip);
            Bundle bundle = Bundle.open(bundleFolder(partial), target.getName(), progress);
            if (!bundle.folder().renameTo(target)) {
                throw new IOException("the folder " + target.getName() + " cannot be created");
            }
            return bundle.movedTo(target);
        } catch (IOException | IllegalArgumentException error) {  // the latter for names that are not UTF-8
            throw new BundleException("the .zip file cannot be unpacked: " + Text.of(error)
                    + "; copy it again, and make room where there is none", error);
        } finally {
            delete(partial);
        }
    }

    /** Removes a file, or a folder with all that is in it; links are removed, not followed. */
    public static void delete(File file) {
        if (!file.delete() && isRealFolder(file)) {
            File[] children = file.listFiles();
            for (File child : children == null ? new File[0] : children) {
                delete(child);
            }
            file.delete();
        }
    }

    private static boolean isRealFolder(File file) {
        try {
            File real = new File(file.getAbsoluteFile().getParentFile().getCanonicalFile(), file.getName());
            return file.isDirectory() && real.getCanonicalFile().equals(real);
        } catch (IOException error) {
            return false;
        }
    }

    private static File bundleFolder(File partial) {
        File[] top = partial.listFiles();
        boolean single = top != null && top.length == 1 && top[0].isDirectory();
        return single && !new File(partial, Manifest.FILE).exists() ? top[0] : partial;
    }

    private void extract(InputStream zip) throws IOException, BundleException {
        ZipInputStream entries = new ZipInputStream(zip);
        int count = 0;
        for (ZipEntry entry = entries.getNextEntry(); entry != null; entry = entries.getNextEntry()) {
            if (++count > MOST_ENTRIES) {
                throw new BundleException("the .zip file has more than " + MOST_ENTRIES + " entries; it is no bundle");
            }
            String name = entry.isDirectory() ? entry.getName().replaceAll("/$", "") : entry.getName();
            if (!Paths.isPlain(name)) {
                throw new BundleException("the .zip file has an entry '" + Text.shortened(Text.plain(name), 60)
                        + "', not a plain relative path; get the bundle from who made it");
            }
            if (isOfMacOs(name)) {
                continue;
            }
            File file = new File(partial, name);
            if (entry.isDirectory()) {
                create(file);
            } else if (written.add(name)) {
                create(file.getParentFile());
                copy(entries, file);
            } else {
                throw new BundleException("the .zip file has '" + name + "' twice; get the bundle from who made it");
            }
        }
        if (count == 0) {
            throw new BundleException("the file is not a .zip file, or an empty one; choose a bundle's .zip");
        }
    }

    /** What the Finder adds to a .zip. */
    private static boolean isOfMacOs(String name) {
        return name.startsWith("__MACOSX") || name.equals(".DS_Store") || name.endsWith("/.DS_Store");
    }

    private void copy(InputStream from, File to) throws IOException, BundleException {
        byte[] chunk = new byte[CHUNK];
        try (OutputStream out = new FileOutputStream(to)) {
            for (int count = from.read(chunk); count >= 0; count = from.read(chunk)) {
                bytes += count;
                if (bytes > mostBytes) {
                    throw new BundleException("the .zip file unpacks to more than " + mostBytes
                            + " bytes; it is no bundle for this device");
                }
                out.write(chunk, 0, count);
                progress.at(bytes, -1);
            }
        }
    }

    private static void create(File folder) throws IOException {
        if (!folder.isDirectory() && !folder.mkdirs()) {
            throw new IOException("the folder " + folder.getName() + " cannot be created");
        }
    }
}
