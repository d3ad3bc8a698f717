package org.edgehadanorm.core;

import java.io.File;
import java.io.IOException;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;

/** The files of a bundle's folder, compared with what its manifest lists. */
final class Contents {
    private final String bundle;
    private final Map<String, File> found = new TreeMap<>();

    /** bundle: its name in messages. Throws BundleException for links out of the folder and for special files. */
    Contents(File folder, String bundle) throws BundleException {
        this.bundle = bundle;
        try {
            collect(folder.getCanonicalFile(), folder.getCanonicalFile(), "");
        } catch (IOException error) {
            throw new BundleException("bundle " + bundle + " cannot be read: " + Text.of(error), error);
        }
        found.remove(Manifest.FILE);
    }

    /** Throws BundleException where a file is missing, truncated, altered or foreign. */
    void verify(Map<String, Object> listed, Progress progress) throws BundleException {
        TreeSet<String> names = new TreeSet<>(found.keySet());
        names.addAll(listed.keySet());
        long total = 0;
        for (File file : found.values()) {
            total += file.length();
        }
        long before = 0;
        for (String name : names) {
            File file = found.get(name);
            if (file == null) {
                throw wrong(name, "is missing; copy the bundle again");
            }
            if (!listed.containsKey(name)) {
                throw wrong(name, "is foreign, the manifest does not list it; remove it");
            }
            verify(name, file, Manifest.object(listed, name), offset(progress, before, total));
            before += file.length();
        }
    }

    private void verify(String name, File file, Map<?, ?> entry, Progress progress) throws BundleException {
        long size = (Long) entry.get("bytes");
        if (file.length() != size) {
            throw wrong(name, "is truncated or of the wrong size, " + file.length() + " bytes instead of " + size
                    + "; copy the bundle again");
        }
        String sha256;
        try {
            sha256 = Sha256.of(file, progress);
        } catch (IOException error) {
            throw wrong(name, "cannot be read: " + Text.of(error) + "; copy the bundle again");
        }
        if (!sha256.equals(entry.get("sha256"))) {
            throw wrong(name, "was altered, its sha256 differs; copy the bundle again");
        }
    }

    private static Progress offset(Progress progress, long before, long total) {
        return (done, ignored) -> progress.at(before + done, total);
    }

    private void collect(File root, File folder, String prefix) throws BundleException, IOException {
        File[] children = folder.listFiles();
        if (children == null) {
            throw new IOException(prefix + " cannot be listed");
        }
        for (File child : children) {
            String name = prefix + child.getName();
            File real = child.getCanonicalFile();
            if (!real.getPath().startsWith(root.getPath() + File.separator)) {
                throw wrong(name, "is a link out of the bundle; remove it");
            }
            boolean isLink = !real.equals(child);
            if (!isLink && child.isDirectory()) {
                collect(root, child, name + "/");
            } else if (child.isFile()) {
                found.put(name, child);
            } else {
                throw wrong(name, "is not a regular file; remove it");
            }
        }
    }

    private BundleException wrong(String name, String problem) {
        return new BundleException("bundle " + bundle + ": '" + Text.plain(name) + "' " + problem);
    }
}
