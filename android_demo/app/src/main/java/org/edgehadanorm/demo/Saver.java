package org.edgehadanorm.demo;

import android.content.ContentResolver;
import android.content.ContentValues;
import android.content.Context;
import android.graphics.Bitmap;
import android.net.Uri;
import android.os.Environment;
import android.provider.MediaStore;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.util.concurrent.Executor;

import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Request;

/** Puts pictures where other apps find them. Writes on a thread of its own and answers on the main one. */
final class Saver {
    static final String TYPE = "image/png";
    private static final String ALBUM = "/edge-hadanorm";
    private static final int LONGEST_NAME = 60;

    /** What became of it. */
    interface Answer {
        /** Where the picture is now. */
        void saved(Uri picture);

        void failed(String why);
    }

    private final Context context;
    private final Executor files;
    private final Executor main;

    Saver(Context context, Executor files, Executor main) {
        this.context = context;
        this.files = files;
        this.main = main;
    }

    /** Into the gallery. Only where Api.canSaveToGallery(): before Android 10 that would need a permission. */
    void toGallery(Request request, Picture picture, Answer answer) {
        write(answer, () -> insert(fileName(request), picture));
    }

    /** Into a file of this app that another one may be asked to read. */
    void toShare(Request request, Picture picture, Answer answer) {
        write(answer, () -> {
            File folder = PictureProvider.folder(context);
            File[] before = folder.listFiles();
            for (File old : before == null ? new File[0] : before) {
                old.delete();
            }
            if (!folder.isDirectory() && !folder.mkdirs()) {
                throw new IOException(folder + " cannot be made");
            }
            File file = new File(folder, fileName(request));
            try (OutputStream out = new FileOutputStream(file)) {
                compress(picture, out);
            }
            return PictureProvider.uri(context, file.getName());
        });
    }

    /** `red-apple-7.png` for seed 7. */
    static String fileName(Request request) {
        String name = request.prompt().replaceAll("[^\\p{L}\\p{N}]+", "-").replaceAll("^-|-$", "");
        String start = name.substring(0, Math.min(LONGEST_NAME, name.length()));
        return (start.isEmpty() ? "picture" : start) + "-" + request.seed() + ".png";
    }

    private Uri insert(String name, Picture picture) throws IOException {
        ContentResolver resolver = context.getContentResolver();
        ContentValues values = new ContentValues();
        values.put(MediaStore.MediaColumns.DISPLAY_NAME, name);
        values.put(MediaStore.MediaColumns.MIME_TYPE, TYPE);
        values.put(Api.RELATIVE_PATH, Environment.DIRECTORY_PICTURES + ALBUM);
        values.put(Api.IS_PENDING, 1);
        Uri uri = resolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, values);
        if (uri == null) {
            throw new IOException("the gallery takes no picture");
        }
        try (OutputStream out = resolver.openOutputStream(uri)) {
            compress(picture, out);
        } catch (IOException | RuntimeException error) {
            resolver.delete(uri, null, null);
            throw error;
        }
        values.clear();
        values.put(Api.IS_PENDING, 0);
        resolver.update(uri, values, null, null);
        return uri;
    }

    private static void compress(Picture picture, OutputStream out) throws IOException {
        if (out == null || !Bitmaps.of(picture).compress(Bitmap.CompressFormat.PNG, 100, out)) {
            throw new IOException("the picture cannot be written; is the storage full?");
        }
    }

    private interface Write {
        Uri run() throws IOException;
    }

    private void write(Answer answer, Write write) {
        files.execute(() -> {
            try {
                Uri uri = write.run();
                main.execute(() -> answer.saved(uri));
            } catch (IOException | RuntimeException error) {
                main.execute(() -> answer.failed(String.valueOf(error.getMessage())));
            }
        });
    }
}
