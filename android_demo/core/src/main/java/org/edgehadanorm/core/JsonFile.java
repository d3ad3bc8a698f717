package org.edgehadanorm.core;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

/** JSON files in UTF-8, with a byte order mark or without. */
public final class JsonFile {
    private static final int CHUNK = 1 << 16;

    private JsonFile() {
    }

    /** Throws BundleException, which calls the file `what`, where it is unreadable, larger than `most` or not JSON. */
    public static Object read(File file, String what, int most) throws BundleException {
        if (file.length() > most) {
            throw new BundleException(what + " has " + file.length() + " bytes, more than the " + most
                    + " that any has; copy it again");
        }
        try {
            String text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes(file))).toString();
            return Json.parse(text.startsWith("\uFEFF") ? text.substring(1) : text);
        } catch (CharacterCodingException error) {
            throw new BundleException(what + " is not JSON in UTF-8: it has other bytes; copy it again", error);
        } catch (IOException error) {
            throw new BundleException(what + " cannot be read: " + Text.of(error) + "; copy it again", error);
        } catch (IllegalArgumentException error) {
            throw new BundleException(what + " is not JSON in UTF-8: " + Text.of(error) + "; copy it again", error);
        }
    }

    private static byte[] bytes(File file) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream((int) file.length());
        byte[] chunk = new byte[CHUNK];
        try (InputStream stream = new FileInputStream(file)) {
            for (int count = stream.read(chunk); count >= 0; count = stream.read(chunk)) {
                bytes.write(chunk, 0, count);
            }
        }
        return bytes.toByteArray();
    }
}
