package org.edgehadanorm.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Files of a test. */
final class Files {
    private Files() {
    }

    static File write(File file, String text) throws IOException {
        return write(file, text.getBytes(StandardCharsets.UTF_8));
    }

    static File write(File file, byte[] content) throws IOException {
        file.getParentFile().mkdirs();
        try (OutputStream stream = new FileOutputStream(file)) {
            stream.write(content);
        }
        return file;
    }

    /** A copy of a folder. */
    static File copy(File from, File to) throws IOException {
        for (String name : names(from)) {
            write(new File(to, name), Vectors.bytes(new File(from, name)));
        }
        return to;
    }

    /** A copy of the bundle of one of the recorded loops. */
    static File bundle(String form, File to) throws IOException {
        return copy(new File(Vectors.folder(form.equals("sizes") ? form : "loops/" + form), "bundle"), to);
    }

    /** The files in a folder by their relative paths, in no order. */
    static List<String> names(File folder) {
        List<String> names = new ArrayList<>();
        for (File child : folder.listFiles()) {
            if (child.isDirectory()) {
                names(child).forEach(name -> names.add(child.getName() + "/" + name));
            } else {
                names.add(child.getName());
            }
        }
        return names;
    }
}
